"""Batches of a fixed number of tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from suzoo import distributed
from suzoo.engine import TokenBatches
from tests.ranks import run_ranks

LENGTHS = np.random.default_rng(0).lognormal(3.2, 0.6, 3000).astype(int) + 3


def batches(lengths=LENGTHS, **options) -> TokenBatches:
    return TokenBatches(list(range(len(lengths))), lengths, **{"max_tokens": 2048, "collate": list, **options})


def test_padding_is_under_five_percent_and_the_budget_is_kept():
    data = batches()
    sizes = [
        (len(rows), LENGTHS[rows].max(), LENGTHS[rows].sum()) for s in range(data.steps_per_epoch) for rows in data[s]
    ]
    assert max(count * longest for count, longest, _ in sizes) <= 2048
    padded, real = sum(count * longest for count, longest, _ in sizes), sum(total for *_, total in sizes)
    assert 1 - real / padded < 0.05
    assert real / (len(sizes) * 2048) > 0.9  # and the budget is used


def test_every_example_comes_once_in_an_epoch_and_the_next_epoch_is_another():
    data = batches()
    epochs = [[data.rows(epoch * data.steps_per_epoch + s) for s in range(data.steps_per_epoch)] for epoch in range(3)]
    for epoch in epochs:
        assert sorted(np.concatenate(epoch)) == list(range(len(LENGTHS)))
    together = [{frozenset(rows.tolist()) for rows in epoch} for epoch in epochs]
    assert len(together[0] & together[1]) < 0.2 * data.steps_per_epoch
    lengths = [[LENGTHS[rows].max() for rows in epoch] for epoch in epochs]
    assert lengths[0] != lengths[1] and lengths[0] != sorted(lengths[0]) and sorted(lengths[0]) == sorted(lengths[1])


def test_a_step_is_a_pure_function_of_seed_and_number():
    steps = [0, 5, batches().steps_per_epoch + 2]
    first, again = batches(seed=3), batches(seed=3)
    expected = [first[step] for step in steps]
    assert [again[step] for step in reversed(steps)] == expected[::-1]
    assert batches(seed=4)[0] != expected[0]
    for step, micro_batches in zip(steps, expected, strict=True):
        assert sorted(first.rows(step)) == sorted(row for rows in micro_batches for row in rows)


def test_micro_batches_make_up_a_step_and_what_is_left_over_changes():
    data = batches(num_micro_batches=7)
    single = batches().steps_per_epoch
    assert data.steps_per_epoch == single // 7 and single % 7 and len(data[0]) == 7
    left = [
        set(range(len(LENGTHS)))
        - {r for s in range(data.steps_per_epoch) for r in data.rows(e * data.steps_per_epoch + s)}
        for e in range(2)
    ]
    assert left[0] and left[0] != left[1]


def steps_on_a_rank() -> list:
    data = batches(num_micro_batches=2)
    return [(data[step], data.rows(step).tolist(), data.steps_per_epoch, distributed.rank()) for step in (0, 3)]


def test_two_ranks_share_a_step_without_overlap():
    for first, second in zip(*run_ranks(steps_on_a_rank), strict=True):
        assert (first[3], second[3]) == (0, 1) and first[1:3] == second[1:3]
        assert len(first[0]) == len(second[0]) == 2
        parts = [row for rows in first[0] + second[0] for row in rows]
        assert sorted(parts) == sorted(first[1]) and len(set(parts)) == len(parts)


def test_random_numbers_of_a_step_are_a_function_of_seed_step_and_place():
    def draw(rows, generator):
        return rows, torch.randint(1 << 30, (), generator=generator).item()

    first, again = (batches(collate=draw, draws=True, num_micro_batches=3) for _ in range(2))
    before = torch.get_rng_state()
    expected = [first[step] for step in (0, 4, 4)]
    assert [again[step] for step in (4, 0)] == [expected[1], expected[0]] and expected[1] == expected[2]
    drawn = [number for micro_batches in expected[:2] for _, number in micro_batches]
    assert len(set(drawn)) == 6 and (torch.get_rng_state() == before).all()
    assert batches(collate=draw, draws=True, num_micro_batches=3, seed=1)[0] != expected[0]


def test_a_rank_holds_eight_bytes_per_example():
    data = batches()
    data.rows(0)
    arrays = [data._order, *(data._epoch or ())[1:]]
    assert sum(array.nbytes for array in arrays) <= 8 * len(LENGTHS) + 8 * (len(data._cuts) - 1)


@pytest.mark.parametrize("num_micro_batches", [1, 4])
@pytest.mark.parametrize("num_ranks", [2, 4])
def test_ranks_compute_equally_much(num_ranks, num_micro_batches):
    """In every step, also in that which has the examples left over: tokens with padding differ by under 5 %."""
    options: dict[str, Any] = {"num_ranks": num_ranks, "num_micro_batches": num_micro_batches, "blank": dict}
    data = batches(max_tokens=4096, **options)
    lengths = np.array(LENGTHS)
    for step in range(2 * data.steps_per_epoch):
        padded = [len(rows) * lengths[rows].max() for rows in data._of_step(step)]
        of_rank = [sum(padded[place::num_ranks]) for place in range(num_ranks)]  # as ranks share them
        assert max(of_rank) / min(of_rank) < 1.05


def test_what_makes_no_batches_is_refused():
    with pytest.raises(ValueError, match="example 1 has 30 tokens, more than the 20 of a micro-batch"):
        batches([5, 30, 7], max_tokens=20)
    with pytest.raises(ValueError, match="make only 1 micro-batches of 2048 tokens, and a step takes 2"):
        batches([5, 6], num_micro_batches=2)
    with pytest.raises(ValueError, match="one length per example"):
        TokenBatches([1, 2], [3], max_tokens=8, collate=list)
    with pytest.raises(ValueError, match="one at least"):
        batches([])
    assert batches([5]).rows(7).tolist() == [0]
