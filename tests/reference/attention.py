"""Attention as it is written: one query, one key at a time."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F


def similarity(kind: str, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    if kind == "elu1":
        return (F.elu(q) + 1) @ (F.elu(k) + 1)
    if kind == "taylor1":
        return 1 + F.normalize(q, dim=0) @ F.normalize(k, dim=0)
    x = q @ k / math.sqrt(len(q))
    return 1 + x + x * x / 2


def linear(kind: str, query, key, value, visible: Callable[[int, int], bool]) -> torch.Tensor:
    """(L, V) of one head."""
    rows = []
    for i, q in enumerate(query):
        seen = [j for j in range(len(key)) if visible(i, j)]
        if not seen:
            rows.append(torch.zeros_like(value[0]))
        elif kind == "efficient":
            rows.append(q.softmax(0) @ (key[seen].softmax(0).T @ value[seen]))
        else:
            weights = torch.stack([similarity(kind, q, key[j]) for j in seen])
            rows.append(weights @ value[seen] / weights.sum())
    return torch.stack(rows)


def rotation(x: torch.Tensor, position: float, base: float = 10000.0) -> torch.Tensor:
    """One vector turned by RoPE."""
    out = x.clone()
    for i in range(0, len(x), 2):
        angle = position * base ** (-i / len(x))
        out[i] = x[i] * math.cos(angle) - x[i + 1] * math.sin(angle)
        out[i + 1] = x[i + 1] * math.cos(angle) + x[i] * math.sin(angle)
    return out
