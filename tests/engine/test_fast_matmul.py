"""A run that goes on multiplies as it began, whatever would be chosen now."""

from __future__ import annotations

import json

import torch

from suzoo.models import _matmul
from tests.engine.test_loop import Training


def test_a_resumed_run_keeps_the_product_that_it_began_with(tmp_path, monkeypatch):
    seen = []

    def on_step(step):
        seen.append(torch.backends.mkldnn.matmul.fp32_precision)

    monkeypatch.setattr(_matmul, "_error", lambda: 0.0)
    for begun, now, expected in (("always", "never", "bf16"), ("never", "always", "none")):
        folder = tmp_path / begun
        monkeypatch.setattr(_matmul, "_switch", _matmul._Switch())
        monkeypatch.setenv(_matmul.VARIABLE, begun)
        Training(folder, num_steps=5, save_every=5, on_step=on_step).fit()
        (checkpoint,) = (folder / "checkpoints").iterdir()
        assert '"fast_matmul", ' + json.dumps(begun == "always") in (checkpoint / "state.json").read_text()
        # another process, which would choose otherwise
        monkeypatch.setattr(_matmul, "_switch", _matmul._Switch())
        monkeypatch.setenv(_matmul.VARIABLE, now)
        Training(folder, num_steps=8, resume=True, on_step=on_step).fit()
        assert seen == [expected] * 8
        seen.clear()
        assert torch.backends.mkldnn.matmul.fp32_precision == "none"
