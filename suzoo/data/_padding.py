"""Lists of tokens to one rectangle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


def pad_right(examples: Sequence[Mapping[str, Any]], fills: Mapping[str, int]) -> dict[str, Tensor]:
    """(B, L) of each name in `fills`, its padding filled with that value, and `attention_mask`: 1 for tokens."""
    if not examples:
        raise ValueError("a batch of no examples")
    lengths = [len(example["input_ids"]) for example in examples]
    shape = len(examples), max(lengths)
    batch = {}
    for name, fill in fills.items():
        padded = np.full(shape, fill, dtype=np.int64)
        for row, (example, length) in enumerate(zip(examples, lengths, strict=True)):
            padded[row, :length] = example[name]
        batch[name] = torch.from_numpy(padded)
    batch["attention_mask"] = (torch.arange(shape[1])[None] < torch.tensor(lengths)[:, None]).long()
    return batch
