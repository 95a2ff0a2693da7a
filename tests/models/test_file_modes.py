"""Whoever may read a saved folder may read its weights: safetensors alone would leave them to their owner."""

from __future__ import annotations

import os
import stat

import numpy as np
import pytest
import torch

from suzoo.hub.golden import save_golden
from suzoo.models import CoSENTCrossEncoder, CoSENTModel
from suzoo.models._projection import Projection
from suzoo.optimizers._lora_export import write_adapter
from tests.models.tiny import tiny
from tests.tiny import tiny_config, tiny_tokenizer

MODELS = {
    "unilm": lambda: tiny("unilm"),
    "tta": lambda: tiny("tta"),
    "dialogpt": lambda: tiny("dialogpt"),
    "dialogpt with its code": lambda: tiny("dialogpt", layout="blog"),
    "cosent": lambda: CoSENTModel(tiny_config()),
    "cosent with a projection": lambda: CoSENTModel(tiny_config(), projection=Projection(32, 16)),
    "cross-encoder": lambda: CoSENTCrossEncoder(tiny_config()),
}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
@pytest.mark.parametrize("name", MODELS)
def test_weights_have_the_mode_of_the_files_beside_them(tmp_path, name, umask):
    model = MODELS[name]()
    before = os.umask(umask)
    try:
        if name.startswith(("cosent", "cross")):
            model.save_pretrained(tmp_path, tokenizer=tiny_tokenizer())
        else:
            model.save_pretrained(tmp_path)
        save_golden(tmp_path, {"vectors": np.zeros((1, 2))}, {})
        write_adapter(tmp_path / "adapter", [["a"]], [(torch.ones(1, 2), torch.ones(3, 1))], alpha=1, base="b")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*") if path.is_file()}
    assert len([name for name in modes if name.endswith(".safetensors")]) >= 3
    assert set(modes.values()) == {0o666 & ~umask}, modes
