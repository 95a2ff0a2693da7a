"""Disturbing the output of an embedding layer for the length of a block, without touching its weights.

The output and not the matrix: a tied language-model head then sees its own weights, sharded weights stay where they
are, and there is nothing to restore.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from suzoo.distributed import all_reduce_sum
from suzoo.regularizers._checkpointing import checkpoint_depth

Norm = Literal["token", "sample", "batch", "matrix"]


def check_norm(norm: str) -> None:
    if norm not in ("token", "sample", "batch", "matrix"):
        raise ValueError(f"norm must be 'token', 'sample', 'batch' or 'matrix', not {norm!r}")


def check_size(name: str, value: float) -> None:
    if not 0 <= value < math.inf:  # False for NaN
        raise ValueError(f"{name} must be finite and at least 0, not {value}")


@contextmanager
def changed_outputs(
    embedding: nn.Module, change: Callable[[int, Tensor, Tensor], Tensor]
) -> Generator[None, None, None]:
    """Within the block every output of `embedding` is `change(number of the call, output, input ids)`.

    Raises:
        ValueError: the embedding was not called in the block, so nothing was disturbed; or it was inside a checkpointed
            region.
    """
    num_calls, depth = 0, checkpoint_depth()

    def hook(module: nn.Module, args: tuple, kwargs: dict, output: Tensor) -> Tensor:
        nonlocal num_calls
        if checkpoint_depth() > depth:
            raise ValueError(
                f"the {type(embedding).__name__} is inside a checkpointed region, which the backward runs again "
                "without the disturbance: checkpoint only layers above it, as transformers' models do by themselves"
            )
        num_calls += 1
        return change(num_calls - 1, output, (*args, *kwargs.values())[0])  # the ids, by position or by name

    handle = embedding.register_forward_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
    if not num_calls:
        raise ValueError(
            f"the {type(embedding).__name__} was not called: pass the layer that looks up the input ids of this model "
            "(model.get_input_embeddings()), feed input_ids and not inputs_embeds, and do not run a model that was "
            "compiled without the disturbance"
        )


class Disturbance:
    """Tensors added to the outputs of the embedding: `with disturbance.added(): compute_loss()`.

    One per call of the embedding, or a single table of one vector per id, which is what disturbing the matrix comes to.
    Created with zeros in its first block, which is therefore a clean pass.
    """

    def __init__(self, embedding: nn.Module, *, table: bool = False):
        self.num_ids = 0
        if table:
            if not isinstance(embedding, nn.Embedding):
                raise ValueError(f'norm="matrix" needs an nn.Embedding, not a {type(embedding).__name__}')
            self.num_ids = embedding.num_embeddings
        self.embedding, self.table = embedding, table
        self.deltas: list[Tensor] = []
        self.real: list[Tensor] = []  # False at padding, which is never disturbed

    @contextmanager
    def added(self) -> Generator[None, None, None]:
        first = not self.deltas

        def create(output: Tensor, ids: Tensor) -> None:
            padding_idx = getattr(self.embedding, "padding_idx", None)
            real = torch.ones_like(ids) if padding_idx is None else ids != padding_idx
            self.real.append(real.bool()[..., None])
            self.deltas.append(output.new_zeros((*ids.shape, output.shape[-1])).requires_grad_())

        def add(number: int, output: Tensor, input_ids: Tensor) -> Tensor:
            if self.table:
                if not self.deltas:
                    create(output, torch.arange(self.num_ids, device=output.device))
                return output + F.embedding(input_ids, self.deltas[0])
            if first:
                create(output, input_ids)
            return output + self.deltas[number]

        with changed_outputs(self.embedding, add):
            yield

    def gradients(self, loss: Tensor, *, retain_graph: bool = False) -> list[Tensor]:
        """d loss / d delta, 0 at padding and where it is not finite; that of a table is summed over the ranks."""
        grads = torch.autograd.grad(
            loss, self.deltas, retain_graph=retain_graph, allow_unused=True, materialize_grads=True
        )
        grads = [torch.where(real & grad.isfinite(), grad, 0.0) for grad, real in zip(grads, self.real, strict=True)]
        return [all_reduce_sum(grad) for grad in grads] if self.table else grads

    def set(self, deltas: list[Tensor], *, final: bool = False) -> None:
        """New tensors for the next block; the last ones are constants, for which no backward computes a gradient."""
        self.deltas = [
            delta.detach().to(old.dtype).requires_grad_(not final)
            for delta, old in zip(deltas, self.deltas, strict=True)
        ]


def lengths(tensors: list[Tensor], norm: Norm) -> list[Tensor]:
    """Euclidean lengths that broadcast to the tensors: per token, per row, of everything on all ranks, of the table."""
    squares = [(t if t.dtype == torch.float64 else t.float()).square() for t in tensors]
    if norm == "token":
        return [square.sum(-1, keepdim=True).sqrt() for square in squares]
    if norm == "sample":
        return [square.flatten(1).sum(1).sqrt().view(-1, *[1] * (square.dim() - 1)) for square in squares]
    total = torch.stack([square.sum() for square in squares]).sum()
    if norm == "batch":
        total = all_reduce_sum(total)
    return [total.sqrt()] * len(tensors)


def rescaled(tensors: list[Tensor], length: float, norm: Norm) -> list[Tensor]:
    """The tensors at the given length, in float32 at least; what is 0 stays 0."""
    sizes = lengths(tensors, norm)
    return [
        torch.where(size > 0, length / size.clamp_min(1e-30), 0.0) * t for t, size in zip(tensors, sizes, strict=True)
    ]
