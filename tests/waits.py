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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests import pretended
from tests.pretended import DEVICE, OnDevice

sys.path.insert(0, str(Path(__file__).parent.parent / "training"))

from recipes import frame

from accelerate.state import AcceleratorState, PartialState

import suzoo.engine.loop as loop
from suzoo.data import flat_batch
from suzoo.losses import (
    chunked_loss,
    contrastive_loss,
    cosent_loss,
    cross_entropy_loss,
    focal_loss,
    heat_equation_loss,
    multilabel_cross_entropy,
    sparse_multilabel_cross_entropy,
    supcon_loss,
)
from suzoo.models import CoSENTModel
from suzoo.multitask import min_norm, multitask_backward, running_loss
from suzoo.optimizers import (
    Accumulated,
    AccumulatedAdamW,
    AdaFactor,
    AdaX,
    Lion,
    ParameterSearch,
    Tiger,
)
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


# 24 layers' worth of the shapes of an encoder
SHAPES = [(64, 64), (64, 256), (64,), (256,)] * 24 + [(500, 64)]
OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], Any]] = {
    "lazy_adamw": lambda params: AccumulatedAdamW(params, lazy=True),
    "AccumulatedAdamW, k=2": lambda params: AccumulatedAdamW(params, accumulation_steps=2),
    "AdaFactor": AdaFactor,
    "AdaX, bf16": AdaX,
    "Lion, bf16 kahan": lambda params: Lion(params, rounding="kahan"),
    "Tiger": Tiger,
    "Tiger, k=2": lambda params: Tiger(params, accumulation_steps=2),
    "Accumulated": lambda params: Accumulated(torch.optim.AdamW(params, foreach=True), 2, max_grad_norm=1.0),
    "ParameterSearch": lambda params: ParameterSearch(torch.optim.AdamW(params, foreach=True)),
}


def optimizer_steps(name: str, device: torch.device, **options: Any) -> list[Tensor]:
    """The weights after two steps of two micro-steps each; the second step is counted."""
    generator = torch.Generator()
    generator.manual_seed(0)
    dtype = torch.bfloat16 if "bf16" in name else torch.float32
    params = [nn.Parameter((0.1 * torch.randn(shape, generator=generator)).to(dtype).to(device)) for shape in SHAPES]
    optimizer = OPTIMIZERS[name](params)
    for group in optimizer.param_groups:
        group.update(options)
    for number in range(4):
        for param in params:
            grad = torch.randn(param.shape, generator=generator).to(dtype)
            param.grad = grad.to(device) if param.grad is None else param.grad + grad.to(device)
        pretended.waits.clear()
        if number == 2:
            pretended.launches.clear()
        optimizer.step(*[lambda: 1.0] * (name == "ParameterSearch"))
        optimizer.zero_grad()
    return [param.detach().cpu() for param in params]


def step_of_optimizer(name: str) -> None:
    with OnDevice():
        found = optimizer_steps(name, DEVICE)
        waits, launches = dict(pretended.waits), dict(pretended.launches)
    if name != "ParameterSearch":  # whose noise is drawn on the device
        expected = optimizer_steps(name, torch.device("cpu"), **({} if name == "Accumulated" else {"foreach": False}))
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one.float(), other.float(), rtol=1e-4, atol=1e-6)
    waits = {where: count for where, count in waits.items() if "/waits.py" not in where}
    pretended.waits.clear()
    pretended.waits.update(waits)
    pretended.launches.clear()
    pretended.launches.update(launches)


def losses() -> None:
    """One forward and backward of every loss that once looked at its numbers."""
    generator = torch.Generator()
    generator.manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator).to(DEVICE).requires_grad_()  # noqa: E731
    classes = torch.tensor([0, 3, -100, 2] * 2).to(DEVICE)
    places = torch.tensor([0, 1, 3, 4, 5, 7]).to(DEVICE)
    grades = torch.arange(8).to(DEVICE)
    logits, rows, head, grid = draw(8, 5), draw(8, 6), draw(6, 5), draw(2, 8, 6)
    pretended.waits.clear()
    pretended.launches.clear()
    values = [
        cosent_loss(logits[:, 0], grades),
        cross_entropy_loss(logits, classes, label_smoothing=0.1),
        cross_entropy_loss(logits, classes),
        chunked_loss(cross_entropy_loss, lambda hidden: hidden @ head, rows, classes, places=places),
        focal_loss(logits, classes),
        multilabel_cross_entropy(logits, logits.detach() > 0),
        sparse_multilabel_cross_entropy(logits, grades[:, None] % 5),
        contrastive_loss(rows, rows * 2, ids=grades, negatives="all"),
        supcon_loss(rows, grades % 3),
        heat_equation_loss(grid, [draw(6, 6)], block=[(2, 5)]),
        running_loss(torch.stack([logits.square().mean(), rows.square().mean()])),
    ]
    sum(values).backward()
    for value in values:
        assert value.isfinite()
    read = {where for where in pretended.waits if "tests/waits.py" in where}
    for where in read:  # the look at the results
        del pretended.waits[where]


def two_gradients() -> None:
    layers = nn.Sequential(*[nn.Linear(6, 6) for _ in range(4)]).to(DEVICE)
    inputs = torch.ones(3, 6).to(DEVICE)
    pretended.waits.clear()
    pretended.launches.clear()
    hidden = layers(inputs)
    multitask_backward([hidden.square().mean(), hidden.sum()], layers.parameters(), min_norm)


ALONE = {"encode": encode, "losses": losses, "multitask_backward": two_gradients}


def step_of(case: str) -> dict[str, Any]:
    """Waits and launches of one step, and where the waits are."""
    if case in OPTIMIZERS:
        step_of_optimizer(case)
        return counted(case)
    if case in ALONE:
        with OnDevice():
            ALONE[case]()
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
