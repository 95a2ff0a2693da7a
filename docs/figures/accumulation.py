"""Accumulation hidden in the momentum: the steps of plain accumulation, without the buffer of the gradients' sum."""

from __future__ import annotations

import torch
from _svg import BLUE, GREY, ORANGE, Axes, Picture, save

from suzoo.optimizers import AccumulatedSGD

K, WINDOWS = 4, 6
OPTIONS = {"lr": 0.05, "momentum": 0.9}


def gradients() -> torch.Tensor:
    """One noisy gradient for each micro-step."""
    return 1 + torch.randn(K * WINDOWS, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def hidden() -> tuple[list[float], list[float]]:
    """Parameter and momentum after each micro-step of `AccumulatedSGD`."""
    parameter = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))
    optimizer = AccumulatedSGD([parameter], accumulation_steps=K, **OPTIONS)
    values, momenta = [], []
    for gradient in gradients():
        parameter.grad = gradient.clone()
        optimizer.step()
        values.append(parameter.item())
        (state,) = (value for name, value in optimizer.state[parameter].items() if "momentum" in name)
        momenta.append(float(state))
    return values, momenta


def plain() -> list[float]:
    """The parameter after each window of torch's SGD on the mean of the window's gradients."""
    parameter = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))
    optimizer = torch.optim.SGD([parameter], **OPTIONS)
    values = []
    for window in gradients().split(K):
        parameter.grad = window.mean()
        optimizer.step()
        values.append(parameter.item())
    return values


def draw() -> Picture:
    picture = Picture(640, 390, "Gradient accumulation inside the momentum")
    values, momenta = hidden()
    ends, steps = plain(), K * WINDOWS
    difference = max(abs(values[K * number + K - 1] - end) for number, end in enumerate(ends))
    picture.heading(
        "The momentum is the buffer",
        f"One number per parameter instead of two, and the same steps (difference {difference:.0e}).",
    )
    names = {step: str(step) for step in range(0, steps + 1, K)}
    low = min(values)
    above = Axes(
        picture, (60, 84, 550, 100), x=(0, steps), y=(1.08 * low, 0), labels=("", "parameter"), ticks=(names, {0: "0"})
    )
    below = Axes(
        picture,
        (60, 234, 550, 96),
        x=(0, steps),
        y=(0, 1.1 * max(momenta)),
        labels=("micro-step", "momentum"),
        ticks=(names, {0: "0"}),
    )
    for axes in (above, below):
        for step in range(K, steps + 1, K):
            x, y = axes.place(step, axes.y[0])
            picture.line(x, y, x, axes.box[1], GREY, width=1, dash="2 3")
    stairs = [(0, 0.0)]
    for step, value in enumerate(values, 1):
        stairs += [(step, stairs[-1][1]), (step, value)]
    above.curve(*zip(*stairs, strict=True), BLUE)
    for number, end in enumerate(ends, 1):
        x, y = above.place(number * K, end)
        picture.circle(x, y, 4.5, ORANGE)
    below.curve(range(steps + 1), [0.0, *momenta], BLUE)
    for x, name in ((60, "AccumulatedSGD"), (200, "torch's SGD on the mean of each window")):
        picture.circle(x + 6, 374, 5, BLUE if x == 60 else ORANGE)
        picture.text(x + 18, 378, name, size=12)
    return picture


if __name__ == "__main__":
    print(save(draw(), __file__))
