"""Sources with weights: how often the examples of each come up, a pure function of the seed and the epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


class Mixture:
    """Sources that lie end to end, each with its share of the examples of an epoch, whatever its size.

    An epoch has as many examples as there are in all. A source goes through its examples in one random order after the
    other, from where the epoch before left it: over the epochs each of its examples comes equally often.

    Args:
        sizes: examples of each source.
        weights: share of each, up to a common factor.

    Raises:
        ValueError: not one positive weight per source, or a source of some weight without examples.
    """

    def __init__(self, sizes: Sequence[int], weights: Sequence[float]):
        if len(weights) != len(sizes) or not all(math.isfinite(weight) and weight > 0 for weight in weights):
            raise ValueError(f"there must be one positive, finite weight per source of {len(sizes)}, not {weights}")
        self.sizes = list(sizes)
        self.starts = np.cumsum([0, *sizes]).tolist()
        if 0 in self.sizes:
            raise ValueError(f"source {self.sizes.index(0) + 1} of {len(sizes)} has a weight and no examples")
        total, whole = sum(sizes), math.fsum(weights)
        ends = [round(total * math.fsum(weights[: number + 1]) / whole) for number in range(len(sizes))]
        self.counts = [end - begin for begin, end in zip([0, *ends[:-1]], ends, strict=True)]
        if 0 in self.counts:
            number = self.counts.index(0)
            raise ValueError(
                f"weight {weights[number]} of source {number + 1} gives it none of {total} examples: raise it"
            )

    def __len__(self) -> int:
        """Examples of an epoch."""
        return self.starts[-1]

    def share(self, source: int, begin: int, end: int) -> int:
        """How many examples of an epoch come from those that lie from `begin` to `end` in their source: over all such
        parts of a source, its count."""
        count, size = self.counts[source], self.sizes[source]
        return count * end // size - count * begin // size


def drawn(rows: np.ndarray, count: int, epoch: int, seed: Sequence[int]) -> np.ndarray:
    """The `count` of an epoch from `rows` (n,), which come in one random order after the other over the epochs.

    Args:
        seed: of the orders.
    """
    first, last = epoch * count, (epoch + 1) * count
    passes = range(first // len(rows), -(-last // len(rows)))
    orders = []
    for number in passes:
        order = rows.copy()
        np.random.default_rng([*seed, number]).shuffle(order)
        orders.append(order)
    begin = passes.start * len(rows)
    return np.concatenate(orders)[first - begin : last - begin] if orders else rows[:0]
