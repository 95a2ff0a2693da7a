"""Learning-rate schedules as multipliers of the base rate, wrapped in torch's LambdaLR.

Multiplier functions take `step`, the number of updates already done, so the first update uses step 0. Warmup and decay
waste no update on a rate of exactly 0: the first of W warmup updates uses 1/W, and the last update of a linear decay to
0 over D updates uses 1/D. `piecewise_linear` keeps the convention of bert4keras, whose first update has step 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import pairwise

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

SCHEDULES = ("constant", "linear", "cosine", "wsd", "inverse_sqrt", "piecewise_linear")


def _num_steps_of(value: int | float, num_steps: int, name: str) -> int:
    """A count stays; a fraction is a share of the run."""
    if isinstance(value, float):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} as a float is a share of the run and must be in [0, 1], not {value}")
        return round(value * num_steps)
    if not 0 <= value <= num_steps:
        raise ValueError(f"{name} must be between 0 and num_steps={num_steps}, not {value}")
    return value


def piecewise_linear(step: int, points: Mapping[int, float]) -> float:
    """Straight lines between (step, multiplier) points; from (0, 0) unless step 0 is given; constant after the last.

    The `lr_schedule` of bert4keras and Tiger: {1000: 1, 10000: 0.1} warms up for 1000 updates, then falls to 0.1.
    """
    knots = sorted({0: 0.0, **points}.items())
    for (start, low), (end, high) in pairwise(knots):
        if step < end:
            return low + (high - low) * (step - start) / (end - start)
    return knots[-1][1]


def _shape(name: str, num_decay: int, num_warmup: int, min_ratio: float, num_final: int) -> Callable[[int], float]:
    """Multiplier as a function of the updates done since the end of warmup."""
    if name == "constant":
        return lambda step: 1.0
    if name == "linear":
        return lambda step: 1 - (1 - min_ratio) * min(step / max(num_decay, 1), 1)
    if name == "cosine":
        return lambda step: min_ratio + (1 - min_ratio) * (1 + math.cos(math.pi * min(step / max(num_decay, 1), 1))) / 2
    if name == "inverse_sqrt":
        scale = max(num_warmup, 1)
        return lambda step: max(min_ratio, math.sqrt(scale / (scale + step)))
    assert name == "wsd"
    num_stable = num_decay - num_final
    return lambda step: 1 - (1 - min_ratio) * min(max(step - num_stable, 0) / max(num_final, 1), 1)


def get_schedule(
    name: str,
    optimizer: Optimizer,
    *,
    num_steps: int,
    warmup: int | float = 0,
    min_ratio: float = 0.0,
    decay: int | float | None = None,
    points: Mapping[int, float] | None = None,
) -> LambdaLR:
    """A torch LR scheduler; call its `step()` once after every optimizer update.

    Args:
        name: "constant", "linear", "cosine", "wsd" (warmup, stable, then a linear decay), "inverse_sqrt", or
            "piecewise_linear" (the `points`, as in the articles' code).
        optimizer: its rates at this moment are the peak rates; group ratios are kept.
        num_steps: number of optimizer updates of the run, warmup included (not micro-steps).
        warmup: updates (int) or share of the run (float) of linear warmup. Not for "piecewise_linear".
        min_ratio: multiplier at the end of the decay and after it. For "inverse_sqrt" a floor. Not for "constant" and
            "piecewise_linear".
        decay: "wsd" only: length of the final decay, updates (int) or share of the run (float); None is 0.1.
        points: "piecewise_linear" only: {update: multiplier}, see `piecewise_linear`.

    Returns:
        LambdaLR. Its state_dict holds plain numbers; rebuild it with the same arguments, then load.

    Raises:
        ValueError: an unknown name, or an argument outside its range or not used by this schedule.
    """
    if name not in SCHEDULES:
        raise ValueError(f"unknown schedule {name!r}; choose from {', '.join(SCHEDULES)}")
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, not {num_steps}")
    if not 0 <= min_ratio <= 1:
        raise ValueError(f"min_ratio must be in [0, 1], not {min_ratio}")
    if min_ratio and name in ("constant", "piecewise_linear"):
        raise ValueError(f"the schedule {name!r} has no decay that could end at a min_ratio: leave it at 0")
    if decay is not None and name != "wsd":
        raise ValueError(f"decay is the length of the last part of 'wsd', which {name!r} has not: leave it out")
    if (points is not None) != (name == "piecewise_linear"):
        raise ValueError("points={update: multiplier} belong to the schedule 'piecewise_linear', and only to it")
    if points is not None:
        if warmup:
            raise ValueError("piecewise_linear has its warmup in the points: leave warmup at 0")
        if not points or min(points) < 0 or min(points.values()) < 0:
            raise ValueError("points needs at least one entry, and no negative update or multiplier")
        return LambdaLR(optimizer, lambda step: piecewise_linear(step, points))
    num_warmup = _num_steps_of(warmup, num_steps, "warmup")
    num_decay = num_steps - num_warmup
    num_final = min(_num_steps_of(0.1 if decay is None else decay, num_steps, "decay"), num_decay)
    after_warmup = _shape(name, num_decay, num_warmup, min_ratio, num_final)
    return LambdaLR(
        optimizer, lambda step: (step + 1) / num_warmup if step < num_warmup else after_warmup(step - num_warmup)
    )
