"""The heat-equation prior: exact data cost nothing, Euler steps have their order, gaps are linear."""

from __future__ import annotations

import pytest
import torch

from suzoo.losses import heat_equation_loss, heat_extrapolate, heat_interpolate


def system(num_axes: int, step: float = 0.1) -> list[torch.Tensor]:
    """Commuting matrices: polynomials of one."""
    torch.manual_seed(0)
    a = step * torch.randn(3, 3, dtype=torch.float64)
    return [a, a @ a + 0.5 * a][:num_axes]


def discrete_field(matrices, sizes, start) -> torch.Tensor:
    """Position by position from one corner: powers of (I + A) (I + B), (I - A) backwards."""
    torch.manual_seed(1)
    z = torch.randn(2, 3, dtype=torch.float64)
    identity = torch.eye(3, dtype=torch.float64)
    field = torch.zeros(2, *sizes, 3, dtype=torch.float64)
    for position in torch.cartesian_prod(*[torch.arange(s) for s in sizes]).view(-1, len(sizes)).tolist():
        value = z
        for matrix, x, first in zip(matrices, position, start, strict=True):
            sign = 1 if x >= first else -1
            value = value @ torch.linalg.matrix_power(identity + sign * matrix, abs(x - first)).T
        field[(slice(None), *position)] = value
    return field


@pytest.mark.parametrize(("sizes", "start"), [((7,), (2,)), ((4, 5), (1, 3))])
def test_data_that_follow_the_equation_cost_nothing(sizes, start):
    matrices = system(len(sizes))
    field = discrete_field(matrices, sizes, start)
    block = [(first, first + 1) for first in start]
    inside = (slice(None), *(slice(*bounds) for bounds in block))
    torch.testing.assert_close(heat_extrapolate(field[inside], matrices, sizes, start), field)
    assert heat_equation_loss(field, matrices, block=block) < 1e-25
    # the order of the axes makes no difference for matrices that commute
    if len(sizes) == 2:
        turned = heat_extrapolate(field[inside].transpose(1, 2), matrices[::-1], sizes[::-1], start[::-1])
        torch.testing.assert_close(turned.transpose(1, 2), field)


def test_one_step_is_exact_to_second_order():
    errors = []
    for step in (0.1, 0.05):
        (a,) = system(1, step)
        z = torch.randn(1, 1, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        exact = z[:, 0] @ torch.linalg.matrix_exp(a).T
        errors.append((heat_extrapolate(z, [a], (2,), (0,))[:, 1] - exact).norm().item())
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)


def test_heat_equation_loss_is_the_mean_over_what_lies_outside_and_learns_the_matrix():
    (a,) = system(1)
    field = discrete_field([a], (6,), (0,))
    wrong = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    loss = heat_equation_loss(field, [wrong], block=[(0, 2)])
    torch.testing.assert_close(loss, (field[:, 2:] - field[:, 1:2]).square().mean())
    assert torch.autograd.gradcheck(
        lambda f, m: heat_equation_loss(f, [m], block=[(1, 3)]), (field.requires_grad_(), wrong)
    )
    optimizer = torch.optim.Adam([wrong], lr=0.02)
    for _ in range(400):
        optimizer.zero_grad()
        heat_equation_loss(field.detach(), [wrong], block=[(0, 2)]).backward()
        optimizer.step()
    assert heat_equation_loss(field, [wrong], block=[(0, 2)]) < 1e-3 * loss


def test_heat_equation_loss_of_a_block_that_is_everything_and_of_bfloat16():
    (a,) = system(1)
    field = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    loss = heat_equation_loss(field, [a], block=[(0, 4)])
    loss.backward()
    assert loss == 0 and (field.grad == 0).all()
    low = heat_equation_loss(field.bfloat16(), [a.bfloat16()], block=[(1, 2)])
    assert low.dtype == torch.float32 and low.isfinite()


def test_heat_interpolate_is_linear():
    left, right = torch.zeros(1, 2), torch.tensor([[4.0, 8.0]])
    gap = heat_interpolate(left, right, 3)
    assert gap.tolist() == [[[1, 2], [2, 4], [3, 6]]]
    line = torch.cat([left[:, None], gap, right[:, None]], 1)
    assert line.diff(dim=1).diff(dim=1).abs().max() == 0  # z'' = 0


def test_heat_equation_rejects_what_does_not_fit():
    field, (a,) = torch.randn(2, 4, 3), system(1)
    with pytest.raises(ValueError, match="1 block bounds"):
        heat_equation_loss(field, [a], block=[(0, 1), (0, 1)])
    with pytest.raises(ValueError, match="has 1 axes"):
        heat_extrapolate(field, [a, a], (4,), (0,))
    with pytest.raises(ValueError, match="must not be empty and lie in"):
        heat_extrapolate(field, [a], (4,), (2,))
    with pytest.raises(ValueError, match="do not fit"):
        heat_interpolate(field[:, 0], field[:, 0], 0)
