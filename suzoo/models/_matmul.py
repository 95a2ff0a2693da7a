"""The faster of two float32 matrix products of a CPU, where it is as exact.

torch multiplies float32 through MKL, which on some processors (AMD's with AVX-512) takes twice as long as oneDNN does.
`torch.backends.mkldnn.matmul.fp32_precision = "bf16"` sends products to oneDNN. The name permits bf16, and where the
hardware multiplies it (AMX), results are rounded to it. So a probe decides, once per process, by error and by time.

The switch is one for the whole process, and the backward reads it, too. Inside attention it is off: torch's flash
kernel multiplies many small blocks there, each of which would be a call of oneDNN.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers.utils import logging

from ._devices import attention_kernels

logger = logging.get_logger(__name__)

_MKLDNN: Any = torch.backends.mkldnn
VARIABLE = "SUZOO_FAST_MATMUL"
MOST_ERROR = 1e-5  # largest, over the mean absolute value
LEAST_GAIN = 1.15  # less could be chance
# (M, K, N) of the products of a small encoder's batch: attention's, and both of the feed-forward
_SHAPES = ((512, 384, 384), (512, 384, 1536), (512, 1536, 384))


class _Switch:
    """Who is inside `fast_matmul`, and what it restores."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.decision: bool | None = None
        self.users = 0
        self.before = "none"

    def set(self, fast: bool) -> None:
        # a backward may come when its forward's block is left
        if self.users:
            _MKLDNN.matmul.fp32_precision = "bf16" if fast else self.before


_switch = _Switch()


def decide_fast_matmul(recorded: bool | None = None) -> bool:
    """Whether this process uses the faster product; decided at the first call, and said in one line of the log.

    SUZOO_FAST_MATMUL is "always" or "never", or else the probe decides.

    Args:
        recorded: what a run that goes on began with; its results are the same bits only with the same product.

    Raises:
        ValueError: SUZOO_FAST_MATMUL has another value.
    """
    wish = os.environ.get(VARIABLE, "")
    if wish not in ("", "always", "never"):
        raise ValueError(f"{VARIABLE} is {wish!r}: set it to always or never, or leave it out to have it measured")
    if recorded is not None and recorded != _switch.decision:
        _switch.decision, reason = recorded, "as the run began"
        if wish and (wish == "always") != recorded:
            logger.warning(f"{VARIABLE}={wish} does not count: the run goes on with the product that it began with")
        elif recorded and not (_can_switch() and _error() < MOST_ERROR):
            logger.warning("oneDNN's float32 product, with which the run began, is not exact here: torch's takes over")
            _switch.decision, reason = False, "other bits than the run began with"
    elif _switch.decision is not None:
        return _switch.decision
    elif wish:
        _switch.decision, reason = wish == "always" and _can_switch(), f"{VARIABLE}={wish}"
    else:
        _switch.decision, reason = _probe()
    logger.info(f"float32 products on this CPU: {'oneDNN' if _switch.decision else 'as torch has it'} ({reason})")
    return _switch.decision


@contextmanager
def fast_matmul(device: torch.device) -> Generator[None]:
    """Inside, float32 products on a CPU are the faster ones, if `decide_fast_matmul` says so; also their backward."""
    if device.type != "cpu" or not decide_fast_matmul():
        yield
        return
    with _switch.lock:
        if not _switch.users:
            _switch.before = _MKLDNN.matmul.fp32_precision
        _switch.users += 1
        _switch.set(True)
    try:
        yield
    finally:
        with _switch.lock:
            last = _switch.users == 1
            _switch.set(not last)
            _switch.users -= 1


class _Border(torch.autograd.Function):
    """The same tensors; from here on the product is the fast one or not, and the other way round in the backward."""

    @staticmethod
    def forward(fast: bool, *tensors: Tensor) -> tuple[Tensor, ...]:
        _switch.set(fast)
        return tuple(tensor.view_as(tensor) for tensor in tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
        ctx.fast = inputs[0]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        _switch.set(not ctx.fast)
        return None, *grads


def attend_plainly(
    attend: Callable[..., tuple[Tensor, Tensor | None]], module: Any, query: Tensor, key: Tensor, value: Tensor,
    *args: Any, **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """`attend(module, query, key, value, ...)`, an attention function of transformers, with torch's own product, and on
    CUDA without cuDNN."""
    if not _switch.users or torch.compiler.is_compiling():
        with attention_kernels(query.device):
            return attend(module, query, key, value, *args, **kwargs)
    query, key, value = _Border.apply(False, query, key, value)
    try:
        output, weights = attend(module, query, key, value, *args, **kwargs)
    finally:
        _switch.set(True)
    return _Border.apply(True, output)[0], weights


def _can_switch() -> bool:
    return _MKLDNN.is_available() and hasattr(_MKLDNN, "matmul")


def _pairs() -> Generator[tuple[Tensor, Tensor]]:
    """The factors of a layer's forward, of its input's gradient and of its weights' gradient."""
    generator = torch.Generator().manual_seed(0)
    for m, k, n in _SHAPES:
        inputs, weights, grads = (torch.randn(shape, generator=generator) for shape in ((m, k), (n, k), (m, n)))
        yield from ((inputs, weights.T), (grads, weights), (grads.T, inputs))


def _product(fast: bool, left: Tensor, right: Tensor) -> Tensor:
    before = _MKLDNN.matmul.fp32_precision
    _MKLDNN.matmul.fp32_precision = "bf16" if fast else before
    try:
        return left @ right
    finally:
        _MKLDNN.matmul.fp32_precision = before


def _error() -> float:
    """Largest error of the fast product against float64, over the mean absolute value."""
    worst = 0.0
    for left, right in _pairs():
        exact = left.double() @ right.double()
        difference = (_product(True, left, right).double() - exact).abs().max()
        worst = max(worst, float(difference / exact.abs().mean()))
    return worst


def _seconds(fast: bool, left: Tensor, right: Tensor) -> float:
    started = time.perf_counter()
    _product(fast, left, right)
    return time.perf_counter() - started


@torch.no_grad()
def _probe() -> tuple[bool, str]:
    """(use it, why)."""
    if not _can_switch():
        return False, "this torch has no other product"
    if _MKLDNN.matmul.fp32_precision == "bf16":
        return False, "fp32_precision is set already"
    first = next(_pairs())
    if torch.equal(_product(True, *first), _product(False, *first)):
        return False, "it has one product only"
    error = _error()
    if error >= MOST_ERROR:
        return False, f"oneDNN's has an error of {error:.0e}"
    gains = []
    for pair in _pairs():
        times = [(_seconds(False, *pair), _seconds(True, *pair)) for _ in range(7)]
        plain, fast = (min(column) for column in zip(*times, strict=True))
        gains.append(plain / fast)
    gain = min(gains)
    return gain >= LEAST_GAIN, f"oneDNN takes 1/{gain:.2f} of the time, error {error:.0e}"
