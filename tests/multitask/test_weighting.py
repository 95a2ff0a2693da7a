"""Loss and gradient weightings: oracle, exhaustive search, and the published iteration that stalls."""

from __future__ import annotations

import math

import pytest
import torch

from suzoo import distributed
from suzoo.multitask import (
    InitialLoss,
    generalized_mean,
    geometric_mean,
    inverse_gradient_norm,
    label_entropy,
    min_norm,
    pcgrad,
    primary_auxiliary,
    running_loss,
)
from tests.ranks import run_ranks
from tests.reference.multitask import blog_iteration, direction_reference, pcgrad_reference


def double(values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


LOSSES, GRADIENTS = double([0.5, 2.0]), double([[1, 0], [-0.5, 2]])


def value_and_direction(objective):
    losses = LOSSES.clone().requires_grad_()
    value = objective(losses)
    (weights,) = torch.autograd.grad(value, losses)
    return value.item(), (weights @ GRADIENTS).tolist()


def test_loss_weighting_oracle():
    for objective, value, direction in (
        (InitialLoss(2).double(), 2, [1.75, 1]),
        (InitialLoss(2, double([0.5, 2.0])), 2, [1.75, 1]),
        (running_loss, 2, [1.75, 1]),
        (geometric_mean, 1, [0.875, 0.5]),
        (lambda x: generalized_mean(x, -2.0), 0.6859943406, [1.2811953125, 0.0403526083]),
        (lambda x: generalized_mean(x, -1.0), 0.8, [1.24, 0.16]),
        (lambda x: generalized_mean(x, 0.5), 1.125, [0.5625, 0.75]),
        (lambda x: generalized_mean(x, 1.0), 1.25, [0.25, 1]),
        (lambda x: generalized_mean(x, 2.0), 1.4577379737, [-0.1714985851, 1.3719886811]),
        (lambda x: generalized_mean(x, math.inf), 2, [-0.5, 2]),
        (lambda x: generalized_mean(x, -math.inf), 0.5, [1, 0]),
    ):
        actual, actual_direction = value_and_direction(objective)
        assert actual == pytest.approx(value, abs=1e-9) and actual_direction == pytest.approx(direction, abs=1e-9)
    assert label_entropy(torch.tensor([7, 2, 1, 0])).item() == pytest.approx(0.8018185525)
    assert label_entropy(torch.ones(10)).item() == pytest.approx(math.log(10))
    for counts in (torch.zeros(3), torch.tensor([3, -1]), torch.tensor([1, math.nan]), torch.ones(0)):
        with pytest.raises(ValueError, match="label_entropy: counts must be"):
            label_entropy(counts)
    with pytest.raises(ValueError, match="gamma is NaN"):
        generalized_mean(LOSSES, math.nan)


def test_loss_weightings_do_not_see_the_scale_of_a_loss():
    for objective in (running_loss, InitialLoss(2).double()):
        losses = (LOSSES * double([1, 1000])).requires_grad_()
        (weights,) = torch.autograd.grad(objective(losses), losses)
        # per unit of the unscaled second loss
        assert (weights * double([1, 1000])).tolist() == pytest.approx([2, 0.5])


def test_initial_loss_remembers_the_first_losses():
    weighting = InitialLoss(2).double()
    weighting(LOSSES)
    assert weighting(LOSSES / 2).item() == 1
    copy = InitialLoss(2).double()
    copy.load_state_dict(weighting.state_dict())
    assert copy(LOSSES / 2).item() == 1
    with pytest.raises(ValueError, match="for 2 tasks"):
        weighting(torch.ones(3))
    with pytest.raises(ValueError, match="positive finite numbers"):
        InitialLoss(2, torch.tensor([1.0, 0.0]))
    with pytest.raises(ValueError, match="positive finite numbers"):
        InitialLoss(2, torch.tensor([1.0, math.inf]))


def test_loss_weightings_reject_losses_that_are_not_positive():
    initial = InitialLoss(2).double()
    for bad in (double([0.5, -1.0]), double([0.5, math.inf]), double([0.5, math.nan])):
        for objective in (running_loss, geometric_mean, initial):
            with pytest.raises(ValueError, match="every loss must be positive and finite"):
                objective(bad)
    assert generalized_mean(double([0.5, -1.0]), 1.0) == -0.25
    assert initial(LOSSES).item() == 2  # a bad first call leaves no trace
    assert initial.initial.tolist() == LOSSES.tolist()


def test_inverse_gradient_norm_oracle():
    weights = inverse_gradient_norm(GRADIENTS @ GRADIENTS.T)
    u = weights @ GRADIENTS
    assert u.tolist() == pytest.approx([0.757464375, 0.9701425001])
    assert (GRADIENTS @ u).tolist() == pytest.approx([0.757464375, 1.5615528128])
    assert inverse_gradient_norm(double([[0, 0], [0, 4]])).tolist() == [0, 0.5]


def test_only_the_inverse_norm_sees_the_scale_of_a_gradient_scaler():
    torch.manual_seed(0)
    g = torch.randn(3, 5, dtype=torch.float64)
    gramian, scale = g @ g.T, 65536.0
    for weighting in (min_norm, primary_auxiliary, lambda x: pcgrad(x, generator=torch.Generator().manual_seed(0))):
        torch.testing.assert_close(weighting(gramian * scale**2), weighting(gramian))
    torch.testing.assert_close(inverse_gradient_norm(gramian * scale**2), inverse_gradient_norm(gramian) / scale)


@pytest.mark.parametrize(
    ("gradients", "alpha", "u"),
    [
        ([[1, 0], [-0.5, 2]], [0.76, 0.24], [0.64, 0.48]),
        ([[1, 1], [-1, 1]], [0.5, 0.5], [0, 1]),
        ([[1, 0], [3, 0.5]], [1, 0], [1, 0]),
        (
            [[1, 0, 0.2], [-0.5, 2, 0], [0.3, -1, 1]],
            [0.2613927796, 0.3188991912, 0.4197080292],
            [0.2278555928, 0.2180903531, 0.4719865851],
        ),
    ],
)
def test_min_norm_oracle(gradients, alpha, u):
    gradients = double(gradients)
    weights = min_norm(gradients @ gradients.T)
    assert weights.tolist() == pytest.approx(alpha, abs=1e-9)
    assert (weights @ gradients).tolist() == pytest.approx(u, abs=1e-9)


def test_primary_auxiliary_oracle():
    g = double([[1, 0], [-0.5, 2]])
    weights = primary_auxiliary(g @ g.T)
    assert weights.tolist() == pytest.approx([1, 0.1176470588])
    assert (weights @ g).tolist() == pytest.approx([0.9411764706, 0.2352941176])
    g = double([[1, 1, 1], [-1, 0, 0.2], [-0.5, -1, 0.3], [0.5, 0.5, 0]])
    weights = primary_auxiliary(g @ g.T)
    assert weights.tolist() == pytest.approx([1, 0.3703703704, 0.7407407407, 0], abs=1e-9)
    assert (weights @ g).tolist() == pytest.approx([0.2592592593, 0.2592592593, 1.2962962963])


def test_primary_auxiliary_where_the_published_iteration_lets_the_primary_loss_rise():
    g = double([[-1, -1], [1, 0], [0.6, 0.8]])
    stalled = blog_iteration(g)
    assert stalled @ g[0] == pytest.approx(-0.12)
    weights = primary_auxiliary(g @ g.T)
    assert weights.tolist() == pytest.approx([1, 0.25, 1.25], abs=1e-7)
    assert (weights @ g).abs().max() < 1e-7


@pytest.mark.parametrize("num_primary", [1, 2, 4])
def test_directions_are_those_of_exhaustive_search(num_primary):
    torch.manual_seed(num_primary)
    for _ in range(60):
        num_tasks = num_primary + int(torch.randint(0 if num_primary == 4 else 1, 3, ()))
        # of very different lengths, as gradients of tasks are
        g = torch.randn(num_tasks, 4, dtype=torch.float64) * 10.0 ** torch.randint(-2, 3, (num_tasks, 1))
        weights = primary_auxiliary(g @ g.T, num_primary=num_primary)
        u = weights @ g
        assert (weights >= 0).all() and weights[:num_primary].sum().item() == pytest.approx(1)
        scale = g[:num_primary].norm(dim=1).max()
        torch.testing.assert_close(u, direction_reference(g, num_primary), rtol=0, atol=float(1e-6 * scale))
        # no auxiliary loss rises, every primary loss falls by |u|² at least
        assert (g[num_primary:] @ u >= -1e-6 * scale * g[num_primary:].norm(dim=1)).all()
        assert (g[:num_primary] @ u - u @ u >= -1e-6 * scale**2).all()


def test_directions_of_degenerate_gradients():
    zero_auxiliary = double([[1, 2], [0, 0]])
    assert primary_auxiliary(zero_auxiliary @ zero_auxiliary.T).tolist() == pytest.approx([1, 0])
    zero_primary = double([[0, 0], [1, 2]])
    assert primary_auxiliary(zero_primary @ zero_primary.T).tolist() == [1, 0]
    assert (min_norm(zero_primary @ zero_primary.T) @ zero_primary).abs().max() < 1e-9
    opposite = double([[1, 0], [-1, 0]])
    for weights in (min_norm(opposite @ opposite.T), primary_auxiliary(opposite @ opposite.T)):
        assert (weights @ opposite).abs().max() < 1e-9
    same = double([[1, 1], [1, 1], [1, 1]])
    assert (min_norm(same @ same.T) @ same).tolist() == pytest.approx([1, 1])
    many = torch.randn(50, 80, dtype=torch.float64)
    weights = min_norm(many @ many.T)
    u = weights @ many
    assert (many @ u >= u @ u - 1e-8).all()  # optimality, at 50 tasks
    with pytest.raises(ValueError, match=r"num_primary must be in 1\.\.2"):
        primary_auxiliary(same[:2] @ same[:2].T, num_primary=3)


def test_pcgrad_projects_conflicting_gradients():
    g = double([[1, 0], [-0.5, 2]])
    assert (pcgrad(g @ g.T) @ g).tolist() == pytest.approx([0.9411764706, 2.2352941176])
    torch.manual_seed(0)
    g = torch.randn(4, 3, dtype=torch.float64)
    weights = pcgrad(g @ g.T, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(weights @ g, pcgrad_reference(g, torch.Generator().manual_seed(3)))


RANK_LOSSES = [[0.4, 3.0], [0.6, 1.0]]  # on average 0.5 and 2


def objectives():
    return [running_loss, geometric_mean, lambda x: generalized_mean(x, 2.0), InitialLoss(2).double()]


def weights_of_a_rank() -> list[torch.Tensor]:
    losses = double(RANK_LOSSES[distributed.rank()])
    results = []
    for objective in objectives():
        theta = double(1.0).requires_grad_()
        value = objective(losses * theta)
        value.backward()
        results.append(torch.stack([distributed.all_reduce_mean(value), distributed.all_reduce_mean(theta.grad)]))
    return results


def test_loss_weightings_of_two_ranks_are_those_of_one_process():
    expected = []
    for objective in objectives():
        theta = double(1.0).requires_grad_()
        value = objective(LOSSES * theta)
        value.backward()
        expected.append(torch.stack([value.detach(), theta.grad]))
    for results in run_ranks(weights_of_a_rank):
        torch.testing.assert_close(results, expected)
