from __future__ import annotations

import json
import math

import pytest
import torch

from suzoo.optimizers import get_schedule
from suzoo.optimizers.schedules import SCHEDULES


def multipliers(name: str, num_steps: int, count: int | None = None, **options) -> list[float]:
    """Rate used by each update of a run with base rate 1."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = get_schedule(name, optimizer, num_steps=num_steps, **options)
    used = []
    for _ in range(count or num_steps):
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return used


def test_linear():
    assert multipliers("linear", 6, warmup=2) == pytest.approx([1 / 2, 1, 1, 3 / 4, 2 / 4, 1 / 4])


def test_linear_stays_at_min_ratio_after_the_run():
    assert multipliers("linear", 4, count=7, min_ratio=0.2)[4:] == pytest.approx([0.2] * 3)


def test_cosine():
    expected = [0.1 + 0.9 * (1 + math.cos(math.pi * i / 4)) / 2 for i in range(4)]
    assert multipliers("cosine", 4, min_ratio=0.1) == pytest.approx(expected)


def test_wsd():
    assert multipliers("wsd", 10, warmup=2, decay=4) == pytest.approx([1 / 2, 1, 1, 1, 1, 1, 1, 3 / 4, 2 / 4, 1 / 4])


def test_wsd_takes_shares_of_the_run():
    assert multipliers("wsd", 10, warmup=0.2, decay=0.4) == multipliers("wsd", 10, warmup=2, decay=4)
    assert multipliers("wsd", 20) == multipliers("wsd", 20, decay=2)


def test_inverse_sqrt_is_continuous_and_falls_as_the_root():
    used = multipliers("inverse_sqrt", 16, warmup=4)
    assert used[3:5] == [1, 1]
    assert used[8] == pytest.approx(math.sqrt(4 / 8)) and used[12] == pytest.approx(math.sqrt(4 / 12))


def test_constant():
    assert multipliers("constant", 4, warmup=2) == [0.5, 1, 1, 1]


def test_piecewise_linear_is_bert4keras():
    """bert4keras piecewise_linear(t, {2: 1, 4: 0.5}): 0 at t=0, up to 1 at t=2, down to 0.5 at t=4, then constant."""
    used = multipliers("piecewise_linear", 6, points={2: 1, 4: 0.5})
    assert used == pytest.approx([0, 0.5, 1, 0.75, 0.5, 0.5])
    assert multipliers("piecewise_linear", 3, points={0: 1, 2: 0.5}) == pytest.approx([1, 0.75, 0.5])


@pytest.mark.parametrize("name", SCHEDULES)
def test_group_ratios_are_kept_and_no_rate_is_negative(name):
    a, b = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    optimizer = torch.optim.SGD([{"params": a, "lr": 1.0}, {"params": b, "lr": 0.25}], lr=1.0)
    points = {2: 1.0, 5: 0.1} if name == "piecewise_linear" else None
    schedule = get_schedule(name, optimizer, num_steps=8, points=points)
    for _ in range(12):
        first, second = (group["lr"] for group in optimizer.param_groups)
        assert 0 <= first <= 1 and second == pytest.approx(first / 4)
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize("name", ["linear", "cosine", "wsd", "inverse_sqrt", "constant"])
def test_one_step_runs_and_warmup_of_the_whole_run(name):
    assert multipliers(name, 1) == [1]
    assert multipliers(name, 2, warmup=2) == [0.5, 1]


def test_resume_continues_the_schedule_through_json():
    def build():
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        return optimizer, get_schedule("cosine", optimizer, num_steps=10, warmup=3)

    first, schedule = build()
    for _ in range(5):
        first.step()
        schedule.step()
    state = json.loads(json.dumps(schedule.state_dict()))
    second, resumed = build()
    second.load_state_dict(first.state_dict())
    resumed.load_state_dict(state)
    for _ in range(5):
        assert second.param_groups[0]["lr"] == first.param_groups[0]["lr"]
        for optimizer, scheduler in ((first, schedule), (second, resumed)):
            optimizer.step()
            scheduler.step()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("polynomial", {}, "unknown schedule"),
        ("linear", {"num_steps": 0}, "at least 1"),
        ("linear", {"warmup": 11}, "warmup must be between"),
        ("linear", {"warmup": 1.5}, "share of the run"),
        ("linear", {"min_ratio": 2.0}, "min_ratio"),
        ("constant", {"min_ratio": 0.1}, "no decay that could end"),
        ("piecewise_linear", {"points": {1: 1.0}, "min_ratio": 0.1}, "no decay that could end"),
        ("cosine", {"decay": 0.1}, "leave it out"),
        ("constant", {"decay": 4}, "leave it out"),
        ("piecewise_linear", {"points": {1: 1.0}, "decay": 0}, "leave it out"),
        ("wsd", {"decay": 11}, "decay must be between"),
        ("linear", {"points": {1: 1.0}}, "belong to"),
        ("piecewise_linear", {}, "belong to"),
        ("piecewise_linear", {"points": {}}, "at least one"),
        ("piecewise_linear", {"points": {1: 1.0}, "warmup": 2}, "leave warmup"),
    ],
)
def test_get_schedule_refuses(name, options, message):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    with pytest.raises(ValueError, match=message):
        get_schedule(name, optimizer, **{"num_steps": 10, **options})
