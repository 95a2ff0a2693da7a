"""Batches of texts end to end, without padding: what the models take as `input_ids` (T,) with `lengths`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def flat_batch(
    input_ids: Sequence[Sequence[int]],
    token_type_ids: Sequence[Sequence[int]] | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, Tensor | list[int]]:
    """`{"input_ids": (T,), "lengths": [N numbers]}` of N tokenized texts, and `token_type_ids` (T,) when given."""
    batch: dict[str, Tensor | list[int]] = {
        "input_ids": torch.tensor([token for row in input_ids for token in row], device=device),
        "lengths": [len(row) for row in input_ids],
    }
    if token_type_ids is not None:
        batch["token_type_ids"] = torch.tensor([kind for row in token_type_ids for kind in row], device=device)
    return batch
