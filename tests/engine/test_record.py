"""What happens after the loop, on real processes."""

from __future__ import annotations

import pytest
import torch.distributed as dist
from accelerate import Accelerator

from suzoo.distributed import rank, together
from suzoo.engine import check_same_everywhere, end_training
from suzoo.engine.record import draw_curves, panels_of
from tests.ranks import run_ranks


def group_after_training() -> bool:
    end_training(Accelerator(cpu=True))
    return dist.is_initialized()


def test_end_training_leaves_the_process_group():
    """Destroyed there, it would die with the DDP module and the GIL, and hang now and then."""
    assert run_ranks(group_after_training) == [True, True]


def test_scores_of_different_size_have_axes_of_their_own(tmp_path):
    scores = {
        "loss": [7.0, 6.0],
        "perplexity": [1595.0, 400.0],
        "spearman": [0.1, None],
        "pearson": [-0.5, float("nan")],
    }
    assert panels_of(scores) == [["spearman", "pearson"], ["loss"], ["perplexity"]]
    draw_curves([{"step": 1, "dev": {"loss": 7.0}}, {"step": 2, "loss": 3.0}], tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 1000
    draw_curves([], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def sentences() -> list[str]:
    """What each rank says when one can't read its data, and when the ranks have other data."""

    def work():
        if rank() == 1:
            raise ValueError("line 3 is bad")

    found = []
    for step in (lambda: together(work), lambda: check_same_everywhere({"rows": 5 + rank()})):
        with pytest.raises(ValueError) as caught:
            step()
        found.append(str(caught.value))
    return found


def test_what_goes_wrong_on_one_rank_is_said_by_all():
    first, second = run_ranks(sentences)
    assert first[0] == "process 1 stopped: line 3 is bad" and second[0] == "line 3 is bad"
    assert first[1] == second[1] and first[1].startswith("process 1 has other rows than process 0 (6, not 5)")
