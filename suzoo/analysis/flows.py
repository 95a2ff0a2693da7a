"""Gradient descent as a flow, of a point and of a whole distribution.

Source: kexue.fm/archives/9660. A small step of size eta from x minimizes f(x') + |x' - x|^2 / (2 eta), and in the
limit dx/dt = -grad f(x). With a distribution instead of a point, and the Wasserstein distance in place of |x' - x|,

    dq/dt = div(q grad dF/dq)        that is, every sample moves with -grad of dF/dq at its place.

For F(q) = KL(q | e^{-f} / Z) the first variation is log q + f + 1, the flow is the Fokker-Planck equation, and samples
of Langevin's equation dx = -grad f dt + sqrt(2) dw have the distributions it passes through.

Shapes: N points, D dimensions, T times.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor


def gradient_flow(
    energy: Callable[[Tensor], Tensor], start: Tensor, *, time: float, num_steps: int
) -> tuple[Tensor, Tensor]:
    """dx/dt = -grad energy(x), integrated by Runge and Kutta's rule of fourth order.

    Args:
        energy: maps points (N, D) to N numbers.
        start: (N, D), float64 is best.
        time: where the flow ends. num_steps: equal steps to there.

    Returns:
        Times (T,) and points (T, N, D), T = num_steps + 1, the start among them.

    Raises:
        ValueError: time or num_steps is not positive.
    """
    step = _step_size(time, num_steps)

    def slope(points_ND: Tensor) -> Tensor:
        return -_gradient(energy, points_ND)

    points, path = start.detach(), [start.detach()]
    for _ in range(num_steps):
        first = slope(points)
        second = slope(points + step / 2 * first)
        third = slope(points + step / 2 * second)
        fourth = slope(points + step * third)
        points = points + step / 6 * (first + 2 * second + 2 * third + fourth)
        path.append(points)
    return torch.linspace(0, time, num_steps + 1, dtype=start.dtype), torch.stack(path)


def wasserstein_flow(
    energy: Callable[[Tensor], Tensor],
    start: Tensor,
    *,
    time: float,
    num_steps: int,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Samples of the flow that lowers KL(q | e^{-energy} / Z), by Langevin's equation.

    The Euler and Maruyama rule, whose error falls with the step; the samples stand for the density, whose limit is
    e^{-energy} / Z whatever the start.

    Args:
        energy: maps points (N, D) to N numbers.
        start: (N, D) samples of the first distribution.
        time: where the flow ends. num_steps: equal steps to there.
        generator: of the noise.

    Returns:
        Times (T,) and samples (T, N, D), T = num_steps + 1.

    Raises:
        ValueError: time or num_steps is not positive.
    """
    step = _step_size(time, num_steps)
    points, path = start.detach(), [start.detach()]
    for _ in range(num_steps):
        noise = torch.randn(points.shape, generator=generator, dtype=points.dtype, device=points.device)
        points = points - step * _gradient(energy, points) + (2 * step) ** 0.5 * noise
        path.append(points)
    return torch.linspace(0, time, num_steps + 1, dtype=start.dtype), torch.stack(path)


def draw_flows(
    energy: Callable[[Tensor], Tensor],
    flows: dict[str, Tensor],
    path: str | Path,
    *,
    limits: tuple[float, float] = (-3.0, 3.0),
    moments: Sequence[float] = (0.0, 0.1, 0.4, 1.0),
) -> None:
    """Two-dimensional flows (T, N, 2) over the level lines of the energy: a row each, at shares of the time."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    axis = torch.linspace(*limits, 120, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    height = energy(grid).view(120, 120).T
    figure = Figure(figsize=(3 * len(moments), 3 * len(flows)), layout="constrained")
    FigureCanvasAgg(figure)
    rows = figure.subplots(len(flows), len(moments), squeeze=False)
    for (name, points_TN2), row in zip(flows.items(), rows, strict=True):
        for moment, axes in zip(moments, row, strict=True):
            points = points_TN2[round(moment * (len(points_TN2) - 1))]
            axes.contour(axis, axis, height, levels=12, cmap="Greys", linewidths=0.7)
            axes.plot(points[:, 0], points[:, 1], ".", color="#0072B2", markersize=3)
            axes.set(xlim=limits, ylim=limits, xticks=[], yticks=[], title=f"{name}, t = {moment:g} T")
    figure.savefig(path, dpi=120)


def _gradient(energy: Callable[[Tensor], Tensor], points_ND: Tensor) -> Tensor:
    with torch.enable_grad():
        points_ND = points_ND.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(energy(points_ND).sum(), points_ND)
    return gradient


def _step_size(time: float, num_steps: int) -> float:
    if not time > 0 or num_steps < 1:
        raise ValueError(f"time and num_steps must be positive, not {time} and {num_steps}")
    return time / num_steps
