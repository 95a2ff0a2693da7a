"""MixedBatches: which data set feeds which step. RandomBatches is tested with the cached gradients."""

from __future__ import annotations

import threading
import time
from collections import Counter

import numpy as np
import pytest

from suzoo.engine import MixedBatches, RandomBatches
from suzoo.engine.batches import Ahead


def parts_of(*sizes: int, num_micro_batches: int = 1) -> dict[str, RandomBatches]:
    """Data sets a, b, ... whose examples are (name, number)."""
    return {
        name: RandomBatches(
            [(name, i) for i in range(size)],
            batch_size=4,
            collate=list,
            seed=ord(name),
            num_micro_batches=num_micro_batches,
        )
        for name, size in zip("abc", sizes, strict=False)
    }


def test_proportional_passes_over_each_once_per_epoch_in_random_order():
    parts = parts_of(40, 12)
    mixed = MixedBatches(parts, mix="proportional", seed=5)
    assert mixed.steps_per_epoch == 13
    for epoch in range(3):
        steps = [mixed[13 * epoch + step] for step in range(13)]
        assert Counter(name for step in steps for name, _ in step) == {"a": 10, "b": 3}
        examples = [example for step in steps for _, batch in step for example in batch]
        assert sorted(examples) == sorted([("a", i) for i in range(40)] + [("b", i) for i in range(12)])
    orders = [[mixed.feeding(13 * epoch + step)[0][0] for step in range(13)] for epoch in range(3)]
    assert len({str(order) for order in orders}) == 3
    # a pure function of seed and step, in whatever order the steps are asked for
    for step in (30, 2, 29, 15, 1):
        assert MixedBatches(parts_of(40, 12), mix="proportional", seed=5).feeding(step) == mixed.feeding(step)
    assert MixedBatches(parts_of(40, 12), mix="proportional", seed=5)[20] == mixed[20]
    assert mixed.rows(20).tolist() == [number for _, batch in mixed[20] for _, number in batch]


def test_alternate_takes_turns_and_repeats_the_shorter_one():
    mixed = MixedBatches(parts_of(12, 40, 8), mix="alternate")
    assert mixed.steps_per_epoch == 9
    assert "".join(mixed[step][0][0] for step in range(9)) == "abcabcabc"
    seen = [example for step in range(2, 18, 3) for example in mixed[step][0][1]]
    assert Counter(seen) == Counter({("c", i): 3 for i in range(8)})


def test_together_has_micro_batches_of_each_in_every_step():
    mixed = MixedBatches(parts_of(12, 40, num_micro_batches=2), mix="together")
    assert mixed.steps_per_epoch == 3
    assert [(name, len(batch)) for name, batch in mixed[2]] == [("a", 2), ("a", 2), ("b", 2), ("b", 2)]
    assert len(mixed.rows(2)) == 8


def test_an_unknown_mix_is_refused():
    with pytest.raises(ValueError, match="mix must be one of proportional, alternate, together, not 'random'"):
        MixedBatches(parts_of(12, 12), mix="random")


def test_the_sampler_holds_four_bytes_per_example_in_the_order_of_numpys_permutation():
    batches = RandomBatches(range(1000), batch_size=4, collate=list, seed=3)
    expected = np.random.default_rng([3, 2]).permutation(1000)
    assert batches.rows(2 * 250 + 7).tolist() == expected[28:32].tolist()
    assert batches._permutation is not None and batches._permutation[1].nbytes == 4000


class Slow:
    """Steps that take a while, and say who made them."""

    steps_per_epoch = 5

    def __init__(self):
        self.made: list[tuple[int, str]] = []

    def __getitem__(self, step: int) -> list:
        time.sleep(0.01)
        if step == 4:
            raise ValueError("step 4 has no batches")
        self.made.append((step, threading.current_thread().name))
        return [step]


def test_batches_are_made_ahead_of_their_step_in_a_thread():
    slow = Slow()
    ahead = Ahead(slow)
    for step in range(3):
        assert ahead.get(step, 3) == [step]
        deadline = time.monotonic() + 60
        while len(slow.made) < min(3, step + 2):  # the next step's come without being asked for
            assert time.monotonic() < deadline
            time.sleep(0.001)
    ahead.close()
    assert [step for step, _ in slow.made] == [0, 1, 2]  # no step behind the last
    assert all(name.startswith("batches") for _, name in slow.made) and ahead.seconds_waited > 0


def test_another_step_than_the_next_and_a_fault_come_out_right():
    ahead = Ahead(Slow())
    assert ahead.get(0, 9) == [0] and ahead.get(3, 9) == [3]
    with pytest.raises(ValueError, match="step 4"):
        ahead.get(4, 9)
    assert ahead.get(2, 9) == [2]
    ahead.close()
