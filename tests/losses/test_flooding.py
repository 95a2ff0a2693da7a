"""Flooding: oracle, its descent on the gradient norm, and one sign for all ranks and micro-batches."""

from __future__ import annotations

import pytest
import torch

from suzoo import distributed
from suzoo.losses import alternating_flooding, flooding
from tests.losses.helpers import assert_values, double, grad_of
from tests.ranks import run_ranks


def test_flooding_oracle():
    for value, expected, slope in ((0.5, 0.5, 1), (0.25, 0.25, 0), (0.1, 0.4, -1)):
        loss = double(value)
        assert_values(flooding(loss, 0.25), expected)
        assert grad_of(lambda x: flooding(x, 0.25), loss).item() == slope
    per_sample = double([0.2, 1.0])
    assert_values(flooding(per_sample.mean(), 0.5), 0.6)
    assert_values(flooding(per_sample, 0.5).mean(), 0.9)
    assert grad_of(lambda x: flooding(x, 0.5).mean(), per_sample).tolist() == [-0.5, 0.5]


def test_flooding_of_gradient_descent():
    theta, path = double(1.0).requires_grad_(), []
    for _ in range(8):
        (grad,) = torch.autograd.grad(flooding(theta**2 / 2, 0.1), theta)
        theta = (theta - 0.3 * grad).detach().requires_grad_()
        path.append(theta.item())
    assert path == pytest.approx([0.7, 0.49, 0.343, 0.4459, 0.57967, 0.405769, 0.5274997, 0.36924979])


def test_flooding_of_micro_batches_shares_the_sign_of_the_step():
    losses = double([0.1, 0.6])  # the mean 0.35 is above the level although the first part is below
    parts = [flooding(loss, 0.25, step_loss=losses.mean()) for loss in losses]
    torch.testing.assert_close(sum(parts) / 2, flooding(losses.mean(), 0.25))
    assert flooding(losses[0], 0.25) > losses[0]  # by itself it would have turned around


def test_flooding_of_shares_needs_the_loss_of_the_step():
    """Divided by the num_items of two micro-batches, each loss is half of the mean: 0.175 of 0.35."""
    theta = double(1.0)
    share = lambda x: 0.175 * x  # noqa: E731
    whole = grad_of(lambda x: flooding(2 * share(x), 0.25), theta)
    alone = sum(grad_of(lambda x: flooding(share(x), 0.25), theta) for _ in range(2))
    shared = sum(grad_of(lambda x: flooding(share(x), 0.25, step_loss=double(0.35)), theta) for _ in range(2))
    assert shared == whole and alone == -whole


def test_alternating_flooding_descends_on_the_gradient_norm():
    def two_steps(theta, rate, ratio):
        for step in range(2):
            (grad,) = torch.autograd.grad(alternating_flooding(theta**4 / 4, step, ratio=ratio), theta)
            theta = (theta - rate * grad).detach().requires_grad_()
        return theta.item()

    theta = double(1.0).requires_grad_()
    assert two_steps(theta, 0.02, 0.5) == pytest.approx(0.98941192, abs=1e-9)
    # rate e (1 - r) on L + e r / (2 (1 - r)) |g|^2 with L = x^4/4
    penalized = theta**4 / 4 + 0.02 * 0.5 / (2 * 0.5) * (theta**3) ** 2
    (grad,) = torch.autograd.grad(penalized, theta)
    assert (theta - 0.01 * grad).item() == pytest.approx(0.9894)
    with pytest.raises(ValueError, match="ratio"):
        alternating_flooding(theta, 0, ratio=1.0)


def flooded_on_a_rank() -> list[torch.Tensor]:
    theta = double(2.0).requires_grad_()
    loss = flooding((0.05, 0.2)[distributed.rank()] * theta, 0.2)  # 0.1 and 0.4: mean 0.25, one rank below the level
    loss.backward()
    return [distributed.all_reduce_mean(loss), distributed.all_reduce_mean(theta.grad)]


def test_flooding_takes_the_sign_of_all_ranks():
    theta = double(2.0)
    expected = [flooding(0.125 * theta, 0.2), grad_of(lambda x: flooding(0.125 * x, 0.2), theta)]
    for results in run_ranks(flooded_on_a_rank):
        torch.testing.assert_close(results, expected)
