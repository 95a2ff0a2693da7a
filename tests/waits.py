"""Waits and launches of a training step of every script, on a pretended accelerator; prints a line of JSON per case.

python -m tests.waits [NAME ...]
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from tests import pretended
from tests.pretended import DEVICE, OnDevice

sys.path.insert(0, str(Path(__file__).parent.parent / "training"))

from recipes import frame

from accelerate.state import AcceleratorState, PartialState

import suzoo.engine.loop as loop
from suzoo.data import flat_batch
from suzoo.models import CoSENTModel
from tests.test_waits import CASES
from tests.tiny import tiny_config

SMALL = ["--max-train-samples", "64", "--max-dev-samples", "8", "--hidden-size", "32", "--num-layers", "2"]
SMALL += ["--max-steps", "9", "--cpu-threads", "1", "--evaluate-every", "100"]
FOREACH = ["--optimizer-options", "foreach=True"]
MEASURED = 3  # the step that is looked at: the first ones make the state of the optimizer


class Enough(BaseException):
    """The step was seen."""


class Here:
    """In the place of `Ahead`: batches are made in this thread, where the pretended device sees them."""

    def __init__(self, batches: Any):
        self.batches, self.seconds_waited = batches, 0.0

    def get(self, step: int, num_steps: int) -> Any:
        if step == MEASURED + 1:
            raise Enough
        pretended.waits.clear()
        pretended.launches.clear()
        return self.batches[step]

    def close(self) -> None: ...


def attention(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, **options):
    """torch's attention chooses kernels that a pretended device does not have."""
    scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None:
        lowest = torch.finfo(scores.dtype).min
        scores = scores.masked_fill(~attn_mask, lowest) if attn_mask.dtype == torch.bool else scores + attn_mask
    return F.dropout(scores.softmax(-1), dropout_p) @ value


class Generator(torch.Generator):
    """One that says it is of the device; its numbers come from the CPU."""

    def __new__(cls, device="cpu"):
        return super().__new__(cls)

    def __init__(self, device="cpu"):
        self.place = torch.device(device)

    @property
    def device(self):
        return self.place


def encode() -> None:
    model = CoSENTModel(tiny_config(num_hidden_layers=2), pooling="mean").to(DEVICE).eval()
    pretended.waits.clear()
    pretended.launches.clear()
    with torch.no_grad():
        model(**flat_batch([[5, 6, 7], [5], [8] * 9, [9, 5, 6]], device=DEVICE))


def step_of(case: str) -> dict[str, Any]:
    """Waits and launches of one step, and where the waits are."""
    if case == "encode":
        with OnDevice():
            encode()
        return counted(case)
    script = importlib.import_module(f"train_{case.split(',')[0]}")
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        recipe, *options = CASES[case][0]
        sys.argv = [f"train_{case}.py", recipe, *SMALL, *FOREACH, *options, "--output-dir", folder, "-q"]
        AcceleratorState._reset_state(reset_partial_state=True)
        with contextlib.suppress(Enough), OnDevice():
            script.main()
    return counted(case)


def counted(case: str) -> dict[str, Any]:
    found = dict(pretended.waits)
    return {"case": case, "waits": sum(found.values()), "launches": sum(pretended.launches.values()), "where": found}


def main() -> None:
    torch.__future__.set_swap_module_params_on_conversion(True)  # tied weights stay tied
    F.scaled_dot_product_attention = attention
    torch.nn.utils.clip_grad._has_foreach_support = lambda tensors, device: True
    torch.Generator = Generator  # ty: ignore[invalid-assignment]
    loop.Ahead = Here  # ty: ignore[invalid-assignment]
    begin = frame.begin

    def begin_on_device(recipe):
        accelerator, run = begin(recipe)
        PartialState._shared_state["device"] = accelerator.state.device = DEVICE
        return accelerator, run

    frame.begin = begin_on_device
    for case in sys.argv[1:] or CASES:
        print(json.dumps(step_of(case)), flush=True)


if __name__ == "__main__":
    main()
