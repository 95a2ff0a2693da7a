"""Refusing activation checkpointing around what is changed for the length of a block.

A checkpointed region runs a second time in the backward, when the block is left and nothing is changed any more: torch
then computes other gradients, mostly without a word.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


def checkpoint_depth() -> int:
    """Frames of `torch.utils.checkpoint` above the caller: more than on entering a block means inside a region.

    The stack tells for both kinds, `use_reentrant` or not. 0 while compiling, where the traced operations run again and
    not the Python around them.
    """
    if torch.compiler.is_compiling():
        return 0
    depth, frame = 0, sys._getframe()
    while frame is not None:
        depth += frame.f_globals.get("__name__") == "torch.utils.checkpoint"
        frame = frame.f_back
    return depth


class RefuseCheckpointing(TorchFunctionMode):
    """Within the block a torch function (of `functions` if given) raises ValueError inside a checkpointed region."""

    def __init__(self, message: str, functions: Collection[Callable] | None = None):
        super().__init__()
        self.message, self.functions, self.depth = message, functions, checkpoint_depth()

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if (self.functions is None or func in self.functions) and checkpoint_depth() > self.depth:
            raise ValueError(self.message)
        return func(*args, **(kwargs or {}))
