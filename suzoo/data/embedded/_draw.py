"""Random choices that are the same in every Python version: of `random`, only random() and its seeding promise that."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def generator(*key: str) -> random.Random:
    return random.Random(" ".join(key))  # a str seed is hashed with sha512, not with hash()


def below(rng: random.Random, limit: int) -> int:
    """Uniform in range(limit)."""
    return int(rng.random() * limit)


def other(rng: random.Random, old: int, limit: int) -> int:
    """Uniform in range(limit) without `old`."""
    return (old + 1 + below(rng, limit - 1)) % limit


def pick(rng: random.Random, items: Sequence[T]) -> T:
    return items[below(rng, len(items))]


def shuffled(rng: random.Random, items: Sequence[T]) -> list[T]:
    return sorted(items, key=lambda _: rng.random())
