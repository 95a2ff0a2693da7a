"""The mean over all tokens of a step: one batch, uneven micro-batches and two ranks give the same gradient."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import DistributedType

from suzoo.distributed import rank, world_size
from suzoo.engine import token_mean_backward
from tests.ranks import run_ranks

# rows of unequal numbers of labels, so that a mean of means is another number
LABELS = [[1, 2, 3, 4, 5], [2, -100, -100, -100, -100], [-100] * 5, [3, 3, -100, -100, -100]]


def gradient(parts: list[list[int]]) -> tuple[float, torch.Tensor]:
    """Loss and gradient where each micro-batch holds these rows; the ranks take turns."""
    accelerator = Accelerator(cpu=True)
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 6).double()
    inputs, labels = torch.randn(4, 5, 4, dtype=torch.double), torch.tensor(LABELS)
    prepared = accelerator.prepare(model)

    def loss(rows, num_tokens):
        return (
            F.cross_entropy(prepared(inputs[rows]).flatten(0, 1), labels[rows].flatten(), reduction="sum") / num_tokens
        )

    mine = parts[rank() :: world_size()]
    value = token_mean_backward(accelerator, prepared, mine, lambda rows: int((labels[rows] != -100).sum()), loss)
    return value.item(), model.weight.grad


def test_micro_batches_and_ranks_give_the_gradient_of_the_whole():
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 6).double()
    inputs, labels = torch.randn(4, 5, 4, dtype=torch.double), torch.tensor(LABELS)
    expected = F.cross_entropy(model(inputs).flatten(0, 1), labels.flatten())
    expected.backward()
    for parts in ([[0, 1, 2, 3]], [[0], [1, 2, 3]], [[2], [3, 1], [0]]):
        value, grad = gradient(parts)
        assert value == pytest.approx(expected.item(), abs=1e-12)
        torch.testing.assert_close(grad, model.weight.grad, atol=1e-12, rtol=0)
    results = run_ranks(gradient, [[0], [1], [2], [3]])  # rank 0 has seven labels, rank 1 one and two
    assert sum(value for value, _ in results) / 2 == pytest.approx(expected.item(), abs=1e-12)
    for _, grad in results:
        torch.testing.assert_close(grad, model.weight.grad, atol=1e-12, rtol=0)


def test_a_step_without_a_label_has_a_zero_gradient():
    value, grad = gradient([[2]])
    assert value == 0 and grad.abs().max() == 0


def test_deepspeed_is_refused_where_it_would_step_twice():
    accelerator = Accelerator(cpu=True)
    accelerator.state.distributed_type = DistributedType.DEEPSPEED
    try:
        with pytest.raises(ValueError, match="DeepSpeed steps in each"):
            token_mean_backward(accelerator, torch.nn.Linear(1, 1), [0, 1], lambda batch: 1, lambda batch, n: n)
    finally:
        accelerator.state.distributed_type = DistributedType.NO
