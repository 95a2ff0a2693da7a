"""The batch of R-Drop: every row twice in one forward, so that each half draws its own dropout.

Source: arXiv 2106.14448; kexue.fm/archives/8496. The loss is `suzoo.losses.rdrop_loss`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def repeat_rows(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Every tensor (B, ...) of the batch as (2B, ...), the copies behind the originals; lists are doubled likewise.

        a, b = model(**repeat_rows(inputs)).logits.chunk(2)
        loss = rdrop_loss(a, b, labels)

    So are flat batches (`suzoo.data.flat_batch`): tokens end to end and the list of their lengths. Keep the labels out
    of it, or the model computes a loss that nobody uses. Works in train mode with dropout above 0.

    Raises:
        ValueError: a tensor without rows.
    """
    for name, value in batch.items():
        if isinstance(value, Tensor) and value.dim() == 0:
            raise ValueError(f"repeat_rows: {name} is a scalar, it has no rows to repeat")
    repeated: dict[str, Any] = dict(batch)
    for name, value in batch.items():
        if isinstance(value, Tensor):
            repeated[name] = torch.cat([value, value])
        elif isinstance(value, list):
            repeated[name] = value + value
    return repeated
