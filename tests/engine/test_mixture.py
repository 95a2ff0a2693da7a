"""Sources with weights: shares, coverage, and that a step is a function of seed and number."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from suzoo.engine import Mixture, RandomBatches, TokenBatches
from suzoo.engine.mixture import drawn
from tests.ranks import run_ranks

SIZES, WEIGHTS = (300, 900, 60), (2, 1, 0.5)


def source_of(rows) -> np.ndarray:
    return np.searchsorted(np.cumsum(SIZES), np.asarray(rows), side="right")


def batches(kind: str, **options):
    examples, mixture = list(range(sum(SIZES))), Mixture(SIZES, WEIGHTS)
    if kind == "random":
        return RandomBatches(examples, batch_size=6, collate=list, mixture=mixture, **options)
    lengths = np.random.default_rng(0).lognormal(3.2, 0.6, len(examples)).astype(int) + 3
    return TokenBatches(examples, lengths, max_tokens=400, collate=list, mixture=mixture, **options)


def epoch(data, number: int) -> np.ndarray:
    return np.concatenate([data.rows(number * data.steps_per_epoch + step) for step in range(data.steps_per_epoch)])


def test_an_epoch_has_the_shares_and_over_epochs_examples_of_a_source_come_equally_often():
    assert Mixture(SIZES, WEIGHTS).counts == [720, 360, 180]
    for kind in ("random", "token"):
        data = batches(kind)
        epochs = [epoch(data, number) for number in range(5)]
        assert len({len(rows) for rows in epochs}) == 1 and len(epochs[0]) == sum(SIZES)  # as many steps in each
        for rows in epochs:
            assert np.bincount(source_of(rows)).tolist() == [720, 360, 180]
        counts = Counter(np.concatenate(epochs).tolist())
        for source, often in enumerate((12, 2, 15)):  # 5 epochs of 2.4, .4 and 3 times all
            of_source = [counts[row] for row in range(sum(SIZES)) if source_of([row])[0] == source]
            assert sum(of_source) == often * SIZES[source]
            spread = 0 if kind == "random" else 1
            assert often - spread <= min(of_source) and max(of_source) <= often + spread
        assert sorted(epochs[0].tolist()) != sorted(epochs[1].tolist())


def test_equal_weights_of_equal_sizes_are_an_epoch_of_all():
    data = RandomBatches(range(60), batch_size=6, collate=list, mixture=Mixture([30, 30], [0.1, 0.1]))
    for number in range(3):
        assert sorted(epoch(data, number)) == list(range(60))


def test_examples_come_in_whole_random_orders_one_after_the_other():
    rows = np.arange(100, 107)
    stream = np.concatenate([drawn(rows, 4, number, [1, 2]) for number in range(14)])
    orders = stream.reshape(8, 7)
    assert all(sorted(order) == sorted(rows) for order in orders) and len({str(order) for order in orders}) == 8
    assert drawn(rows, 0, 5, [1]).tolist() == []


@pytest.mark.parametrize("kind", ["random", "token"])
def test_a_step_is_a_function_of_seed_and_number(kind):
    first, again = batches(kind, seed=3), batches(kind, seed=3)
    steps = [first.steps_per_epoch * 2 + 5, 0, 7]
    expected = [first[step] for step in steps]
    assert [again[step] for step in reversed(steps)] == expected[::-1]
    assert batches(kind, seed=4)[0] != first[0]


def of_this_rank() -> list:
    return [batches(kind, num_micro_batches=1)[3] for kind in ("random", "token")]


def test_two_ranks_share_a_step_out():
    (random, token), (random_too, token_too) = run_ranks(of_this_rank)
    assert random[0] + random_too[0] == batches("random")[3][0]
    expected = batches("token", num_ranks=2)[3]
    assert [token[0], token_too[0]] == expected


@pytest.mark.parametrize(
    ("sizes", "weights", "message"),
    [
        ((3, 4), (1,), "one positive, finite weight per source of 2"),
        ((3, 4), (1, 0), "one positive, finite"),
        ((3, 4), (1, float("inf")), "one positive, finite"),
        ((3, 0), (1, 1), "source 2 of 2 has a weight and no examples"),
        ((3, 4), (1, 1e-9), "weight 1e-09 of source 2 gives it none of 7 examples"),
    ],
)
def test_what_is_no_mixture_is_refused(sizes, weights, message):
    with pytest.raises(ValueError, match=message):
        Mixture(sizes, weights)
