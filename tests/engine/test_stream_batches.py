"""Batches of a stream: budget, padding, ranks, and that another process goes on with the same step."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from suzoo.distributed import rank, world_size
from suzoo.engine import StreamBatches
from tests.ranks import run_ranks


class Numbers:
    """Rows 0, 1, 2, … of which a part has every n-th; the length of a row is a function of its number."""

    def __init__(self, part: int, num_parts: int):
        self.part, self.num_parts, self.read = part, num_parts, 0

    def take(self, num_rows: int, number: int):
        rows = [self.part + self.num_parts * (self.read + n) for n in range(num_rows)]
        self.read += num_rows
        return [(f"line {row}", row) for row in rows]

    def state(self):
        return {"read": self.read}

    def load(self, state):
        self.read = state["read"]


def length(row: int) -> int:
    return 3 + row * 7919 % 61


class Tokenized(list):
    def lengths(self):
        return np.array([length(row) for row in self])


def batches(**options) -> StreamBatches:
    options = {"window": 300, "max_tokens": 400, "collate": list, "blank": lambda batch: [], "seed": 3, **options}
    return StreamBatches(Numbers, lambda rows, first: Tokenized(rows), **options)


def test_a_window_is_used_whole_within_the_budget_and_with_little_padding():
    data, rows, padded = batches(), [], 0
    step = 0
    while len(rows) < 600:
        (batch,) = data[step]
        assert len(batch) * max(map(length, batch)) <= 400
        assert data.rows(step) == [f"line {row}" for row in batch]
        rows += batch
        padded += len(batch) * max(map(length, batch))
        step += 1
    assert sorted(rows[:300]) == list(range(300)) and sorted(rows[300:]) == list(range(300, 600))
    assert sum(map(length, rows)) / padded > 0.9 and rows[:300] != sorted(rows[:300])
    assert batches(seed=4)[0] != batches()[0]


def test_another_goes_on_with_the_same_steps():
    def draw(rows, generator):
        return rows, torch.randint(1 << 30, (), generator=generator).item()

    options = {"collate": draw, "draws": True, "num_micro_batches": 3}
    data = batches(**options)
    expected, states = [], []
    for step in range(40):
        expected.append(data[step])
        states.append(json.dumps(data.state(step + 1)))  # while the next window may be read in the thread
    assert len({number for step in expected for _, number in step}) == 120
    for stopped in (1, 13, 39):
        again = batches(**options)
        again.load(stopped, json.loads(states[stopped - 1]))
        assert [again[step] for step in range(stopped, 40)] == expected[stopped:]


def test_a_step_that_is_not_the_next_is_refused_and_so_is_a_row_that_is_too_long():
    data = batches()
    data[0]
    with pytest.raises(AssertionError, match="no step 2 behind step 0"):
        data[2]
    with pytest.raises(ValueError, match=r"line \d+ has 63 tokens, more than the 60 of a micro-batch"):
        batches(max_tokens=60)[0]


def steps_of_this_rank() -> list:
    data = batches(num_micro_batches=2)
    first = [data[step] for step in range(12)]
    state = data.state(12)
    later = [data[step] for step in range(12, 20)]
    three = batches(num_ranks=3)
    return [rank(), world_size(), first, state, later, [three[step] for step in range(5)]]


def test_ranks_share_the_stream_and_one_process_goes_on_for_two():
    one, two = run_ranks(steps_of_this_rank)
    for mine, other in zip(one[2], two[2], strict=True):
        assert len(mine) == len(other) == 2
        assert all(row % 2 == 0 for batch in mine for row in batch) and all(row % 2 for batch in other for row in batch)
    assert one[3] == two[3] and len(one[3]) == 2
    alone = batches(num_micro_batches=2, num_ranks=2)
    alone.load(12, one[3])
    assert [alone[step] for step in range(12, 20)] == [a + b for a, b in zip(one[4], two[4], strict=True)]
    assert all(len(a) == len(b) == 2 and b[1] == [] for a, b in zip(one[5], two[5], strict=True))  # a blank one
