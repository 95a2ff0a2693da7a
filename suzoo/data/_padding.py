"""Lists of tokens to one rectangle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


def pad_right(examples: Sequence[Mapping[str, Any]], fills: Mapping[str, int]) -> dict[str, Tensor]:
    """(B, L) of each name in `fills`, its padding filled with that value, and `attention_mask`: 1 for tokens."""
    if not examples:
        raise ValueError("a batch of no examples")
    lengths = [len(example["input_ids"]) for example in examples]
    longest = max(lengths)
    batch = {
        name: torch.tensor([[*example[name], *[fill] * (longest - len(example[name]))] for example in examples])
        for name, fill in fills.items()
    }
    batch["attention_mask"] = (torch.arange(longest)[None] < torch.tensor(lengths)[:, None]).long()
    return batch
