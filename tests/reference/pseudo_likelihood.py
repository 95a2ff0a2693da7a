"""Pseudo-log-likelihood, one token of one text at a time."""

from __future__ import annotations

import torch


def pseudo_log_likelihood(model, input_ids: list[int], positions: list[int], mask_token_id: int) -> float:
    total = 0.0
    for position in positions:
        masked = list(input_ids)
        masked[position] = mask_token_id
        with torch.no_grad():
            probabilities = model(input_ids=torch.tensor([masked])).logits[0, position].double().softmax(-1)
        total += probabilities[input_ids[position]].log().item()
    return total
