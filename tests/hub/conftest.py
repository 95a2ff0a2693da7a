"""Folders made once, a Hub on the loopback interface, and this process's client turned to it."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub.constants as constants
import pytest
import transformers.utils.hub as hub_of_transformers

from tests.hub.folders import LANGUAGE_MODELS, finish_language_run, finish_run, make_cross_encoder, make_encoder
from tests.hub.server import LoopbackHub


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory) -> Path:
    """Read only: copy it to change it."""
    model = make_encoder(prompts={"query": "a man "})
    return finish_run(model, tmp_path_factory.mktemp("hub") / "tiny-cosent")


@pytest.fixture(scope="session")
def cross_encoder_folder(tmp_path_factory) -> Path:
    """Read only: copy it to change it."""
    return finish_run(make_cross_encoder(), tmp_path_factory.mktemp("hub") / "tiny-reranker")


@pytest.fixture(scope="session")
def coded_folders(tmp_path_factory) -> dict[str, Path]:
    """Of an encoder and a cross-encoder that were asked for their code. Read only: copy one to change it."""
    root = tmp_path_factory.mktemp("with-code")
    models = {"encoder": make_encoder(), "cross_encoder": make_cross_encoder()}
    return {name: finish_run(model, root / name, with_code=True) for name, model in models.items()}


@pytest.fixture(scope="session")
def language_folders(tmp_path_factory) -> dict[str, Path]:
    """Read only: copy one to change it."""
    root = tmp_path_factory.mktemp("language-models")
    return {name: finish_language_run(name, root / name) for name in LANGUAGE_MODELS}


@pytest.fixture
def hub():
    with LoopbackHub({"hf_alice": "alice", "hf_bob": "bob"}) as server:
        yield server


@pytest.fixture
def as_user(monkeypatch, tmp_path):
    """`as_user(hub, "hf_alice")`: this process's huggingface_hub talks to the loopback Hub with that token."""

    def switch(server: LoopbackHub | str, token: str | None):
        endpoint = server if isinstance(server, str) else server.endpoint
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(hub_of_transformers, "_hf_api", None, raising=False)  # an earlier test's server
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
        if token:
            monkeypatch.setenv("HF_TOKEN", token)

    return switch
