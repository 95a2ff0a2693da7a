"""Dropout on a CPU with random bits drawn at once.

torch draws a number for every element there, on one thread, which is 7 to 15 % of a training step. Here one draw of 64
bits serves four elements, so that the probability is rounded to a multiple of 1/65,536. The numbers come from torch's
generator: a state that is put back gives the same dropout.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_STEPS = 1 << 16  # of the probability


def dropout(tensor: Tensor, p: float, training: bool = True) -> Tensor:
    """`torch.nn.functional.dropout`, faster on a CPU; what is kept is scaled by the rounded probability."""
    num_dropped = round(p * _STEPS)
    if not training or tensor.device.type != "cpu" or torch.compiler.is_compiling() or not 0 < num_dropped < _STEPS:
        return F.dropout(tensor, p, training)
    draws = torch.empty((tensor.numel() + 3) // 4, dtype=torch.int64).random_(-(1 << 63), None)
    bits = draws.view(torch.int16)[: tensor.numel()].view(tensor.shape)
    kept = (bits >= num_dropped - _STEPS // 2).to(tensor.dtype)
    return tensor * kept.mul_(_STEPS / (_STEPS - num_dropped))


class Dropout(nn.Dropout):
    """`torch.nn.Dropout` that draws as `dropout` does."""

    def forward(self, input: Tensor) -> Tensor:
        return dropout(input, self.p, self.training)


def replace_dropout(module: nn.Module) -> None:
    """Put `Dropout` in the place of every `torch.nn.Dropout` inside, for training on a CPU."""
    for parent in module.modules():
        for name, child in parent.named_children():
            if type(child) is nn.Dropout and not child.inplace:
                setattr(parent, name, Dropout(child.p).train(child.training))
