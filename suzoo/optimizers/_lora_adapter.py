"""What LoRAOptimizer keeps of one matrix, the gradients and changes of its forms, and its groups."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, MutableMapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


def lora_gradients(grad: Tensor, a: Tensor, b: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Gradients of A (r, n) and B (m, r) from that of W (m, n)."""
    return scale * (b.T @ grad), scale * (grad @ a.T)


def additive_gradients(grad: Tensor, r: int) -> tuple[Tensor, Tensor]:
    """Of W_ij = W0_ij + A[i mod r, j] + B[i, j mod r]: sums over blocks of rows (r, n) and of columns (m, r)."""
    m, n = grad.shape
    return grad.view(m // r, r, n).sum(0), grad.view(m, n // r, r).sum(1)


def additive_delta(a: Tensor, b: Tensor) -> Tensor:
    """A and B repeated to the size of W."""
    (r, n), m = a.shape, b.shape[0]
    return a.repeat(m // r, 1) + b.repeat(1, n // r)


@dataclass(eq=False)
class Adapter:
    """What belongs to one adapted matrix.

    Attributes:
        number: among the adapters, in the order of the groups.
        group, place: where the model's groups have the matrix.
        param: W (m, n).
        a, b: A (r, n) and B (m, r), the inner optimizer's.
        anchors: what a step measures from: A and B at the start, or the random projections.
        first: value of a low-precision W at the start, to which all changes are added.
        version: of a low-precision W when it was last written here.
        hook: handle of what takes its gradient during backward.
    """

    number: int
    group: int
    place: int
    param: Tensor
    a: nn.Parameter
    b: nn.Parameter
    anchors: tuple[Tensor, Tensor]
    first: Tensor | None
    version: int
    hook: Any = None

    @torch.no_grad()
    def follow(self) -> None:
        """A and B go where the matrix went since they were made, as to the GPU by `accelerator.prepare`."""
        device = self.param.device
        if self.a.device != device:
            for virtual in (self.a, self.b):
                virtual.data = virtual.to(device)
            self.anchors = self.anchors[0].to(device), self.anchors[1].to(device)
            self.first = None if self.first is None else self.first.to(device)

    def tensors(self) -> dict[str, Tensor]:
        """As a checkpoint holds them."""
        tensors = {"a": self.a.detach(), "b": self.b.detach(), "anchor_a": self.anchors[0], "anchor_b": self.anchors[1]}
        return tensors if self.first is None else {**tensors, "first": self.first}


class ShownGroup(MutableMapping[str, Any]):
    """A group of the inner optimizer that shows the parameters of the model in place of A and B, so that clipping,
    GradScaler, schedules and Accelerate find what they look for; all else is the inner group's."""

    def __init__(self, owner: Any, index: int, params: list[Tensor]):
        self.owner, self.index, self.params = owner, index, params

    @property
    def inner(self) -> dict[str, Any]:
        return self.owner.optimizer.param_groups[self.index]

    def __getitem__(self, key: str) -> Any:
        return self.params if key == "params" else self.inner[key]

    def __setitem__(self, key: str, value: Any) -> None:
        if key == "params":
            self.owner._replace(self.index, list(value))
        else:
            self.inner[key] = value

    def __delitem__(self, key: str) -> None:
        del self.inner[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.inner)

    def __len__(self) -> int:
        return len(self.inner)


def as_groups(params: Iterable[Any]) -> list[dict[str, Any]]:
    """Groups, whose parameters are a list, of parameters, (name, parameter) pairs or groups of either."""
    given = list(params)
    if not given:
        return []
    groups = [dict(group) for group in given] if isinstance(given[0], dict) else [{"params": given}]
    for group in groups:
        inside = [group["params"]] if isinstance(group["params"], Tensor) else list(group["params"])
        group["params"] = [entry[1] if isinstance(entry, tuple) else entry for entry in inside]
    return groups
