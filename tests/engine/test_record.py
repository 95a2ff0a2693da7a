"""What happens after the loop, on real processes."""

from __future__ import annotations

import torch.distributed as dist
from accelerate import Accelerator

from suzoo.engine import end_training
from tests.ranks import run_ranks


def group_after_training() -> bool:
    end_training(Accelerator(cpu=True))
    return dist.is_initialized()


def test_end_training_leaves_the_process_group():
    """Destroyed there, it would die with the DDP module and the GIL, and hang now and then."""
    assert run_ranks(group_after_training) == [True, True]
