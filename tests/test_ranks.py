"""The collectives on two real gloo ranks."""

from __future__ import annotations

import pytest
import torch

from suzoo import distributed
from tests.ranks import run_ranks


def gather_uneven() -> dict:
    rank = distributed.rank()
    local = torch.arange(rank + 2, dtype=torch.float64).requires_grad_()
    full = distributed.gather(local)
    weights = torch.arange(1, 6, dtype=torch.float64)
    (full * weights).sum().backward()
    return {"full": full.detach(), "grad": local.grad, "all": distributed.all_true(rank == 0)}


def test_gather_concatenates_uneven_ranks_and_sums_their_gradients():
    first, second = run_ranks(gather_uneven)
    assert first["full"].tolist() == second["full"].tolist() == [0, 1, 0, 1, 2]
    assert first["grad"].tolist() == [2, 4]  # both ranks computed the same sum over all rows
    assert second["grad"].tolist() == [6, 8, 10]
    assert first["all"] is second["all"] is False


def fail_on_rank_one() -> None:
    if distributed.rank() == 1:
        raise RuntimeError("rank one fell over")


def test_a_failing_rank_raises_here():
    with pytest.raises(AssertionError, match="rank one fell over"):
        run_ranks(fail_on_rank_one)


def test_without_a_process_group_everything_is_the_identity():
    local = torch.ones(3, requires_grad=True)
    assert distributed.gather(local) is local
    assert distributed.world_size() == 1 and distributed.rank() == 0
    assert distributed.all_reduce_mean(local).tolist() == [1, 1, 1]
