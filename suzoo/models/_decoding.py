"""Weights as a CPU reads them fastest for the one row, or the few, of a decoding step.

A step multiplies a few rows with every weight there is, and its time is that of reading them. torch keeps the weight of
a layer as (out, in). Read as (in, out) the product of one row takes about half of the time, and the head's product of
two to eight rows does in the order of oneDNN's (see training/LOG.md). Both are copies. A model that writes much keeps
them, until it is trained or gone; before every `generate()` they are compared with the weights.
"""

from __future__ import annotations

import weakref
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

MOST_ROWS = 8  # with more, the arithmetic takes longer than the reading
PATIENCE = 32  # steps without copies, which take the time of dozens to make
MOST_BYTES = 1 << 30  # of all copies of a model; layers that come later are called themselves
WIDE = 8192  # features from which on oneDNN's order pays

Layers = tuple[nn.Linear, ...]


class _Copy(NamedTuple):
    marks: list[Tensor]  # of the weights, by which a change of them shows
    weight: Tensor
    bias: Tensor | None
    is_packed: bool

    def product(self, rows: Tensor) -> Tensor:
        if self.is_packed:
            return torch.ops.mkldnn._linear_pointwise(rows, self.weight, self.bias, "none", [], "")
        return rows @ self.weight if self.bias is None else torch.addmm(self.bias, rows, self.weight)


class DecodingWeights:
    """Copies of the weights of layers that read the same input, made after some steps."""

    def __init__(self) -> None:
        self._copies: dict[tuple[Layers, bool], _Copy] = {}
        self._steps: dict[tuple[Layers, bool], int] = {}
        self._compared: set[tuple[Layers, bool]] = set()  # with the weights, since `used`

    @contextmanager
    def used(self) -> Generator[None]:
        """Inside, `decoding_product` finds them. Weights do not change inside, but may between two calls."""
        self._compared.clear()
        token = _CURRENT.set(self)
        try:
            yield
        finally:
            _CURRENT.reset(token)

    def of(self, layers: Layers, is_packed: bool) -> _Copy | None:
        """The copy for these layers; None in the first steps."""
        key = layers, is_packed
        copy = self._copies.get(key)
        if key in self._compared:
            return copy
        if copy is not None and not all(map(torch.equal, copy.marks, _marks(layers))):
            copy = None
            del self._copies[key]
        if copy is None:
            self._steps[key] = self._steps.get(key, 0) + 1
            size = sum(layer.weight.nbytes for layer in layers)
            if (
                self._steps[key] <= PATIENCE
                or size + sum(one.weight.nbytes for one in self._copies.values()) > MOST_BYTES
            ):
                return None
            copy = self._copies[key] = _copy_of(layers, is_packed)
        self._compared.add(key)
        return copy


_CURRENT: ContextVar[DecodingWeights | None] = ContextVar("decoding_weights", default=None)
_KEPT: weakref.WeakKeyDictionary[nn.Module, DecodingWeights] = weakref.WeakKeyDictionary()


def _marks(layers: Layers) -> list[Tensor]:
    """What the layers make of one random vector: a change without any effect on it has next to none on others."""
    direction = torch.randn(layers[0].in_features, generator=torch.Generator().manual_seed(0))
    biases = [layer.bias.clone() for layer in layers if layer.bias is not None]
    return [*(layer.weight @ direction for layer in layers), *biases]


def _copy_of(layers: Layers, is_packed: bool) -> _Copy:
    bias = None if layers[0].bias is None else torch.cat([layer.bias for layer in layers])
    if is_packed:
        (layer,) = layers
        return _Copy(_marks(layers), torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), 2), bias, True)
    widths = [layer.out_features for layer in layers]
    weight = layers[0].weight.new_empty(layers[0].in_features, sum(widths))
    for part, layer in zip(weight.split(widths, 1), layers, strict=True):
        part.copy_(layer.weight.t())
    return _Copy(_marks(layers), weight, bias, False)


@contextmanager
def decoding_weights(model: nn.Module) -> Generator[None]:
    """Inside, steps of decoding use the copies that the model keeps."""
    kept = _KEPT.get(model)
    if kept is None:
        kept = _KEPT[model] = DecodingWeights()
    with kept.used():
        yield


def forget_decoding_weights(model: nn.Module) -> None:
    """Free the memory of a model's copies."""
    _KEPT.pop(model, None)


def decoding_product(layers: Layers, input: Tensor) -> Tensor | None:
    """(..., all out), what the layers make of the same input (..., in), end to end; None where they are to be called
    themselves: outside of `decoding_weights`, with many rows, or where a layer is more than a product."""
    if torch.compiler.is_compiling():  # first: a compiler cannot read a context variable
        return None
    current = _CURRENT.get()
    if current is None or torch.is_grad_enabled():
        return None
    if input.device.type != "cpu" or input.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
        return None
    rows = input.reshape(-1, input.shape[-1])
    if not 0 < len(rows) <= MOST_ROWS or not all(map(_is_plain, layers)):
        return None
    is_packed = len(rows) > 1 and len(layers) == 1 and layers[0].out_features >= WIDE and _can_pack()
    copy = current.of(layers, is_packed)
    return None if copy is None else copy.product(rows).view(*input.shape[:-1], -1)


def linear(layer: nn.Module, input: Tensor) -> Tensor:
    """`layer(input)`, by `decoding_product` where that pays: to fewer features than it takes it does not."""
    widens = isinstance(layer, nn.Linear) and layer.out_features >= layer.in_features
    output = decoding_product((layer,), input) if widens else None
    return layer(input) if output is None else output


def _can_pack() -> bool:
    operations: Any = torch.ops.mkldnn
    return torch.backends.mkldnn.is_available() and hasattr(operations, "_linear_pointwise")


def _is_plain(layer: nn.Linear) -> bool:
    """No hook, no adapter, no quantized or sharded weight, no forward of somebody else's."""
    return (
        type(layer) is nn.Linear
        and type(layer.weight) is nn.Parameter
        and layer.weight.dtype == torch.float32
        and not (layer._forward_hooks or layer._forward_pre_hooks or "forward" in layer.__dict__)
    )
