"""Folders as a finished run leaves them, and a fresh python to open them in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel

from suzoo.data.vocabulary import chat_tokenizer, without_inner_spaces
from suzoo.hub import verify
from suzoo.hub.card import write_card
from suzoo.hub.golden import write_golden
from suzoo.models import (
    CoSENTCrossEncoder,
    CoSENTModel,
    DialoGPTConfig,
    DialoGPTForCausalLM,
    TTAConfig,
    TTAForMaskedLM,
    UniLMConfig,
    UniLMForCausalLM,
)
from suzoo.models._dialogue import DialogueLayout
from suzoo.models._tokenizer_files import save_tokenizer
from tests.tiny import SMALL, tiny_config, tiny_tokenizer

_unmet = verify.unmet(verify.STOCK_CONFIG_REMOTE_CODE)
opens_remote_code_over_a_stock_config = pytest.mark.skipif(bool(_unmet), reason=_unmet)
ROOT = Path(__file__).parent.parent.parent
STSB = "sentence-transformers/stsb"
RUN = {
    "recipe": {
        "model": "some/base-model",
        "data": "stsb",
        "seed": 7,
        "lr": 2e-05,
        "batch_size": 64,
        "output_dir": "/home/me/out",
    },
    "script": "training/train_cosent.py",
    "command": "accelerate launch training/train_cosent.py stsb --lr 2e-5",
    "git_commit": "0123456789abcdef0123456789abcdef01234567",
    "versions": {"torch": "2.13.0", "transformers": "5.23.0"},
    "data": {
        "train": {"source": "stsb.train.tsv", "rows": 5749, "sha256": "ab" * 32},
        "dev": {
            "source": STSB,
            "hub_id": STSB,
            "rows": 1500,
            "sha256": "cd" * 32,
        },
    },
    "synthetic": False,
}
METRICS = {"dev": {"spearman": 0.812345, "pearson": 0.798765}, "train": {"loss": 1.25}}


def finish_run(model, folder: Path, run: dict = RUN, metrics: dict = METRICS, with_code: bool = False) -> Path:
    """What the end of a training script leaves in `folder`; with the code where it is asked for."""
    model.save_pretrained(folder, tokenizer=tiny_tokenizer(), with_code=with_code)
    write_golden(model, tiny_tokenizer(), folder)
    (folder / "run.json").write_text(json.dumps(run))
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 1.25}\n')
    (folder / "curves.png").write_bytes(b"\x89PNG not really")
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "optimizer.safetensors").write_bytes(b"large")
    write_card(folder)
    return folder


def _sharpened(model):
    """Weights large enough that vectors of different texts differ clearly."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)
    return model.eval()


def make_encoder(pooling: str = "mean", family: str = "bert", **options) -> CoSENTModel:
    torch.manual_seed(3)
    return _sharpened(CoSENTModel(tiny_config(family), pooling=pooling, **options))


def make_cross_encoder(family: str = "bert") -> CoSENTCrossEncoder:
    torch.manual_seed(4)
    return _sharpened(CoSENTCrossEncoder(tiny_config(family)))


def run_python(code: str, home: Path, **environment: str) -> subprocess.CompletedProcess:
    """Run `code` in a fresh process with caches of its own under `home`."""
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=home,
        env=os.environ
        | {
            "PYTHONPATH": str(ROOT),
            "HF_HOME": str(home / "huggingface"),
            "HF_HUB_CACHE": str(home / "huggingface" / "hub"),
            "HF_MODULES_CACHE": str(home / "huggingface" / "modules"),
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "0",
            "TRANSFORMERS_VERBOSITY": "error",
            **environment,
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )


def open_doors_here(monkeypatch) -> None:
    """The doors of a finished run open in this process, and not in a fresh one without suzoo, which imports torch anew.

    A folder of each kind of model goes without it, and each that brings code: here suzoo's own would open.
    """

    def doors(folder, *, timeout: float | None, **options) -> list[verify.Door]:
        return [verify.check_promised_door(name, folder, **options) for name in verify.read_promise(folder)["doors"]]

    monkeypatch.setattr("suzoo.hub.check.verify", doors)


# ---- language models


def _lm_config(**options) -> dict:
    ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    sizes = {**SMALL, "max_position_embeddings": 72, "initializer_range": 0.4}
    return {"vocab_size": len(tiny_tokenizer()), **sizes, **ids, **options}


def make_language_model(name: str):
    """(model, tokenizer) of a name in `LANGUAGE_MODELS`, weights large enough for differences to show."""
    torch.manual_seed(5)
    tokenizer = without_inner_spaces(tiny_tokenizer())
    if name in ("blog", "dialogue"):
        layout = "blog" if name == "blog" else "dialogpt"
        tokenizer = chat_tokenizer(tokenizer, DialogueLayout.of_tokenizer(layout, tokenizer))
        positions = "nezha" if name == "blog" else "absolute"
        config = DialoGPTConfig(**_lm_config(layout=layout, position_embedding_type=positions))
        model = DialoGPTForCausalLM(config)
    elif name == "unilm":
        model = UniLMForCausalLM(UniLMConfig(**_lm_config()))
    elif name == "tta":
        model = TTAForMaskedLM(TTAConfig(**_lm_config(mask_token_id=4)))
    elif name == "mlm":
        model = BertForMaskedLM(BertConfig(**_lm_config()))
    else:
        assert name == "gpt2"
        tokenizer.eos_token, tokenizer.padding_side = "[SEP]", "left"
        tokenizer.model_input_names = ["input_ids", "attention_mask"]
        sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 72, "initializer_range": 0.4}
        model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), bos_token_id=2, eos_token_id=3, **sizes))
    return model.eval(), tokenizer


LANGUAGE_MODELS = ("blog", "dialogue", "gpt2", "unilm", "tta", "mlm")


def finish_language_run(name: str, folder: Path, run: dict = RUN, metrics: dict | None = None) -> Path:
    """What the end of a training script of a language model leaves in `folder`."""
    model, tokenizer = make_language_model(name)
    model.save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    write_golden(model, tokenizer, folder)
    (folder / "run.json").write_text(json.dumps(run))
    (folder / "metrics.json").write_text(json.dumps(metrics or {"dev": {"perplexity": 12.345678}}))
    write_card(folder)
    return folder
