"""Batches of texts end to end, without padding: what the models take as `input_ids` (T,) with `lengths`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from suzoo.models._devices import to_device


def flat_batch(
    input_ids: Sequence[Sequence[int] | np.ndarray],
    token_type_ids: Sequence[Sequence[int] | np.ndarray] | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, Tensor | list[int]]:
    """`{"input_ids": (T,), "lengths": [N numbers]}` of N tokenized texts, and `token_type_ids` (T,) when given."""
    batch: dict[str, Tensor | list[int]] = {
        "input_ids": to_device(_end_to_end(input_ids), device),
        "lengths": [len(row) for row in input_ids],
    }
    if token_type_ids is not None:
        batch["token_type_ids"] = to_device(_end_to_end(token_type_ids), device)
    return batch


def _end_to_end(rows: Sequence[Sequence[int] | np.ndarray]) -> Tensor:
    return torch.from_numpy(np.concatenate([np.asarray(row, dtype=np.int64) for row in rows]))
