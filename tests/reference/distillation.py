"""Distillation losses, text by text."""

from __future__ import annotations

import math


def cosine(u: list[float], v: list[float]) -> float:
    lengths = math.sqrt(sum(x * x for x in u)) * math.sqrt(sum(x * x for x in v))
    return sum(x * y for x, y in zip(u, v, strict=True)) / lengths


def cosine_distillation_reference(student: list[list[float]], teacher: list[list[float]]) -> float:
    return sum(1 - cosine(s, t) for s, t in zip(student, teacher, strict=True)) / len(student)


def nearness(vectors: list[list[float]], i: int, scale: float) -> dict[int, float]:
    """Probability of every other text."""
    weights = {j: math.exp(scale * cosine(vectors[i], v)) for j, v in enumerate(vectors) if j != i}
    return {j: weight / sum(weights.values()) for j, weight in weights.items()}


def relation_distillation_reference(student: list[list[float]], teacher: list[list[float]], scale: float) -> float:
    total = 0.0
    for i in range(len(student)):
        p, q = nearness(teacher, i, scale), nearness(student, i, scale)
        total += sum(p[j] * math.log(p[j] / q[j]) for j in p)
    return total / len(student)
