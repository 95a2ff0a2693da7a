"""kexue.fm 7500 and arXiv 2002.02492, 2210.00660 as they are written: one step after the other."""

from __future__ import annotations

import torch


def end_probabilities(stop: torch.Tensor, epsilon: float, monotonic: bool) -> torch.Tensor:
    """p_t(end) of one continuation from the model's own probabilities of the end (T,)."""
    ends, alive = [], 1.0
    for step, s in enumerate(stop.tolist()):
        if monotonic:
            alive = (1 - epsilon) * (1 - s) * alive
            ends.append(1 - alive)
        else:
            ends.append((1 - s) * (1 - (1 - epsilon) ** (step + 1)) + s)
    return torch.tensor(ends, dtype=torch.float64)


def distributions(logits: torch.Tensor, eos: int, epsilon: float, monotonic: bool) -> torch.Tensor:
    """(T, V) probabilities of one continuation: the end, and what is left shared as before."""
    probs = logits.double().softmax(-1)
    ends = end_probabilities(probs[:, eos], epsilon, monotonic)
    rows = []
    for row, end in zip(probs, ends, strict=True):
        others = row.clone()
        others[eos] = 0
        row = (1 - end) * others / others.sum()
        row[eos] = end
        rows.append(row)
    return torch.stack(rows)
