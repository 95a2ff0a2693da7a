"""Paired timing: absolute times wander on shared machines, ratios within one run do not."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass
class Ratio:
    """peer's time / our time: above 1 we are faster. Median with the 10 % and 90 % quantiles over the rounds."""

    median: float
    q10: float
    q90: float
    ours: float
    peer: float
    drift: float

    def __str__(self) -> str:
        return (
            f"{self.median:.2f}x (q10 {self.q10:.2f}, q90 {self.q90:.2f}); ours {1000 * self.ours:.1f} ms, "
            f"peer {1000 * self.peer:.1f} ms, peer's drift {100 * self.drift:.0f} %"
        )


def paired(ours: Callable[[int], object], peer: Callable[[int], object], rounds: int, warmup: int = 2) -> Ratio:
    """Time `ours(round)` and `peer(round)` in turns, the order alternating; medians over `rounds`.

    `drift` compares the peer's median in the first and the last third: above 10 % the run should be repeated.
    """
    times = np.zeros((rounds, 2))
    for number in range(-warmup, rounds):
        for which in (0, 1) if number % 2 else (1, 0):
            start = time.perf_counter()
            (ours, peer)[which](number % rounds)
            if number >= 0:
                times[number, which] = time.perf_counter() - start
    ratios = times[:, 1] / times[:, 0]
    third = max(1, rounds // 3)
    first, last = np.median(times[:third, 1]), np.median(times[-third:, 1])
    return Ratio(
        float(np.median(ratios)),
        float(np.quantile(ratios, 0.1)),
        float(np.quantile(ratios, 0.9)),
        float(np.median(times[:, 0])),
        float(np.median(times[:, 1])),
        float(abs(last - first) / first),
    )
