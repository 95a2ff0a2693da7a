"""From the Hub: every second load is of the same revision, and what could not be read is an error."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import huggingface_hub.constants as constants
import numpy as np
import pytest
from huggingface_hub import snapshot_download
from huggingface_hub.utils import _http
from transformers import AutoModel, AutoTokenizer

from suzoo.models import CoSENTCrossEncoder, CoSENTModel, TTAForMaskedLM
from tests.hub.folders import make_cross_encoder, make_encoder
from tests.hub.server import File, LoopbackHub, Repo
from tests.tiny import PAIRS, SENTENCES, tiny_tokenizer


def put(hub, repo_id: str, folder: Path, branch: str = "main", inside: str = "") -> None:
    files = {
        inside + str(path.relative_to(folder)): File(path.read_bytes(), path.suffix == ".safetensors")
        for path in folder.rglob("*")
        if path.is_file()
    }
    hub.repos.setdefault(repo_id, Repo()).commit(branch, files, "put")


@pytest.fixture
def repo(tmp_path) -> str:
    """A name of its own: this process remembers the commits of the others."""
    return f"alice/{tmp_path.name}"


def other_order(folder: Path, target: Path) -> Path:
    """The same weights with the words of the vocabulary in another order."""
    shutil.copytree(folder, target)
    state = json.loads((target / "tokenizer.json").read_text())
    words = [word for word, number in state["model"]["vocab"].items() if number > 4]
    state["model"]["vocab"] |= dict(zip(words, reversed(range(5, 5 + len(words))), strict=True))
    (target / "tokenizer.json").write_text(json.dumps(state))
    return target


@pytest.fixture(scope="module")
def one_hub():
    with LoopbackHub({"hf_alice": "alice"}) as server:
        yield server


@pytest.fixture
def hub(one_hub):
    """One for all tests here, because transformers keeps the address that it has seen first."""
    one_hub.state.failures.clear()
    return one_hub


@pytest.fixture
def cache(tmp_path, monkeypatch, hub, as_user) -> Path:
    """An empty cache; this process talks to the loopback Hub."""
    as_user(hub, "hf_alice")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(_http.time, "sleep", lambda seconds: None)
    return tmp_path / "cache"


@pytest.mark.parametrize("kind", ["encoder", "cross_encoder", "tta"])
@pytest.mark.parametrize("inside", ["", "model/"])
def test_the_tokenizer_comes_from_the_revision_and_folder_of_the_weights(
    kind, inside, hub, cache, repo, request, tmp_path, language_folders
):
    folder = language_folders["tta"] if kind == "tta" else request.getfixturevalue(f"{kind}_folder")
    folder = Path(shutil.copytree(folder, tmp_path / "v1", ignore=shutil.ignore_patterns("checkpoints")))
    put(hub, repo, folder, inside=inside)
    put(hub, repo, other_order(folder, tmp_path / "v2"), "v2", inside=inside)
    model_class = {"encoder": CoSENTModel, "cross_encoder": CoSENTCrossEncoder, "tta": TTAForMaskedLM}[kind]

    def answer(name, **options):
        model = model_class.from_pretrained(name, **options).eval()
        if kind == "encoder":
            return model.encode(SENTENCES)
        if kind == "tta":
            return model.score(SENTENCES[:2]).numpy()
        return np.array([row["score"] for row in model.rank(SENTENCES[0], SENTENCES)])

    options = {"subfolder": "model"} if inside else {}
    first, second = answer(tmp_path / "v1"), answer(tmp_path / "v2")
    assert abs(first - second).max() > 1e-3
    np.testing.assert_allclose(answer(repo, revision="v2", **options), second, atol=1e-6)
    np.testing.assert_allclose(answer(repo, **options), first, atol=1e-6)
    own_cache = {"cache_dir": str(tmp_path / "other"), "token": "hf_alice"}
    np.testing.assert_allclose(answer(repo, revision="v2", **options, **own_cache), second, atol=1e-6)
    assert (tmp_path / "other").is_dir()
    local = {"local_files_only": True}
    np.testing.assert_allclose(answer(repo, revision="v2", **options, **own_cache, **local), second, atol=1e-6)


def test_the_tokenizer_stays_with_the_weights_when_the_branch_moves_on(hub, cache, repo, encoder_folder, tmp_path):
    put(hub, repo, encoder_folder)
    model = CoSENTModel.from_pretrained(repo)
    put(hub, repo, other_order(encoder_folder, tmp_path / "v2"))
    np.testing.assert_allclose(model.encode(SENTENCES), CoSENTModel.from_pretrained(encoder_folder).encode(SENTENCES))


@pytest.mark.parametrize(
    "name", ["1_Pooling/config", "modules", "config_sentence_transformers", "sentence_bert_config"]
)
@pytest.mark.parametrize("how", ["500", "429"])
def test_a_side_file_that_could_not_be_read_is_an_error(name, how, hub, cache, repo, tmp_path):
    model = make_encoder()
    model.max_seq_length = 20
    model.save_pretrained(tmp_path / "m", tokenizer=tiny_tokenizer())
    put(hub, repo, tmp_path / "m")
    hub.fail_next(f"resolve/.*/{name}", how, 99)
    with pytest.raises(OSError, match=rf"{name}.* of alice/.* could not be read"):
        CoSENTModel.from_pretrained(repo)


def test_offline_what_the_hub_has_never_said_is_an_error_and_what_it_has_is_not(
    hub, cache, repo, encoder_folder, monkeypatch, tmp_path
):
    put(hub, repo, encoder_folder)
    make_encoder().encoder.save_pretrained(tmp_path / "plain")
    tiny_tokenizer().save_pretrained(tmp_path / "plain")
    put(hub, f"{repo}-plain", tmp_path / "plain")
    for name in (repo, f"{repo}-plain"):
        AutoModel.from_pretrained(name), AutoTokenizer.from_pretrained(name)
        with monkeypatch.context() as offline:
            offline.setattr(constants, "HF_HUB_OFFLINE", True)
            with pytest.raises(OSError, match="open the model once with the Hub at hand"):
                CoSENTModel.from_pretrained(name)
        expected = CoSENTModel.from_pretrained(name).encode(SENTENCES)
        with monkeypatch.context() as offline:
            offline.setattr(constants, "HF_HUB_OFFLINE", True)
            np.testing.assert_array_equal(CoSENTModel.from_pretrained(name).encode(SENTENCES), expected)


def test_offline_after_a_download_of_all_what_is_not_there_is_not_there(hub, cache, repo, monkeypatch, tmp_path):
    make_encoder().encoder.save_pretrained(tmp_path / "plain")
    tiny_tokenizer().save_pretrained(tmp_path / "plain")
    (tmp_path / "plain/.gitattributes").write_text("*.safetensors filter=lfs")
    put(hub, repo, tmp_path / "plain")
    snapshot_download(repo, cache_dir=cache)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert CoSENTModel.from_pretrained(repo, cache_dir=cache).pooling == "cls"


def test_the_side_files_of_a_cross_encoder_too(hub, cache, repo, tmp_path):
    model = make_cross_encoder()
    model.prompts, model.default_prompt_name = {"query": "the dog "}, "query"
    model.save_pretrained(tmp_path / "m", tokenizer=tiny_tokenizer())
    put(hub, repo, tmp_path / "m")
    np.testing.assert_allclose(
        CoSENTCrossEncoder.from_pretrained(repo).predict(PAIRS),
        model.predict(PAIRS, tokenizer=tiny_tokenizer()),
        atol=1e-6,
    )
    hub.fail_next("resolve/.*/config_sentence_transformers.json", "500", 99)
    with pytest.raises(OSError, match="could not be read"):
        CoSENTCrossEncoder.from_pretrained(repo, cache_dir=tmp_path / "empty")


def test_a_repository_that_is_not_there_is_said_by_transformers(cache):
    with pytest.raises(OSError, match="alice/nothing"):
        CoSENTModel.from_pretrained("alice/nothing")
