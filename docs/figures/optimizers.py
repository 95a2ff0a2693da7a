"""The optimizer family: what each rule makes of the same gradients, and how much it remembers for it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from _svg import BLUE, GREEN, GREY, ORANGE, QUIET, Picture, save

from suzoo.optimizers import AccumulatedSGD, AdaFactor, AdaX, Lion, Tiger

SIZE, NUM_STEPS, SPIKE, TURN = 256, 60, 14, 30
COMMON = {"lr": 1e-4, "weight_decay": 0.0}
FAMILIES: dict[str, tuple[str, dict[str, tuple[str, Callable]]]] = {
    "by the size of past gradients": (
        BLUE,
        {
            "AdamW": ("m / √v; v forgets", lambda params: torch.optim.AdamW(params, **COMMON)),
            "AdaX": ("m / √v; v remembers ever longer", lambda params: AdaX(params, **COMMON)),
            "AdaFactor": ("g / √v; v is a column times a row", lambda params: AdaFactor(params, **COMMON)),
        },
    ),
    "by the sign": (
        GREEN,
        {
            "Lion": ("sign of momentum and gradient mixed", lambda params: Lion(params, **COMMON)),
            "Tiger": ("sign of momentum, times RMS(θ)", lambda params: Tiger(_matrix(params), **COMMON)),
        },
    ),
    "by the momentum alone": (
        ORANGE,
        {
            "AccumulatedSGD": (
                "as SGD, of 4 gradients at a time",
                lambda params: AccumulatedSGD(params, momentum=0.9, accumulation_steps=4, **COMMON),
            ),
        },
    ),
}


def _matrix(params: list) -> list[dict]:
    """Tiger must be told what its parameters are."""
    return [{"params": params, "kind": "matrix"}]


def gradients() -> list[float]:
    """Noise around 1, one outlier, and then the other direction."""
    noise = torch.randn(NUM_STEPS, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    signs = [1.0 if step < TURN else -1.0 for step in range(NUM_STEPS)]
    found = [sign + 0.3 * float(noise[step]) for step, sign in enumerate(signs)]
    found[SPIKE] = 4.0
    return found


def steps(make: Callable) -> tuple[list[float], float]:
    """(how far the weights went down at each step, floats that are remembered for each weight)"""
    parameter = torch.nn.Parameter(torch.ones(SIZE, SIZE, dtype=torch.float64))
    optimizer, went = make([parameter]), []
    for gradient in gradients():
        before = parameter.detach().clone()
        parameter.grad = torch.full_like(parameter, gradient)
        optimizer.step()
        went.append(float((before - parameter.detach())[0, 0]))
    state = [value for value in optimizer.state[parameter].values() if torch.is_tensor(value) and value.dim() > 0]
    return went, sum(value.numel() for value in state) / parameter.numel()


def draw() -> Picture:
    rows = sum(len(members) for _, members in FAMILIES.values())
    picture = Picture(700, 130 + 44 * rows + 26 * len(FAMILIES), "The optimizers on the same gradients")
    picture.heading(
        "One gradient, six answers",
        "A constant gradient with noise, one outlier of 4 times its size, then the other direction.",
    )
    picture.text(20, 92, "the gradient", size=13)
    picture.text(560, 78, "floats per weight", size=12, colour=QUIET)
    spark(picture, 92, gradients(), QUIET)
    y = 124
    for family, (colour, members) in FAMILIES.items():
        y += 20
        picture.text(20, y, family, size=12, colour=colour, bold=True)
        y += 28
        for name, (rule, make) in members.items():
            went, floats = steps(make)
            picture.text(20, y - 4, name, size=14, bold=True)
            picture.text(20, y + 12, rule, size=11, colour=QUIET)
            spark(picture, y, went, colour)
            for number in range(2):
                picture.rect(560 + 34 * number, y - 11, 30, 14, GREY, round=3, opacity=0.5)
                share = min(1.0, max(0.0, floats - number))
                picture.rect(560 + 34 * number, y - 11, 30 * share, 14, colour, round=min(3, 15 * share))
            picture.text(636, y, f"{floats:.1g}", size=12)
            y += 44
        y -= 22
    return picture


def spark(picture: Picture, y: float, values: list[float], colour: str) -> None:
    """The values as a line around their zero, as high as the row."""
    left, width, height = 262, 270, 15
    largest = max(map(abs, values))
    picture.line(left, y, left + width, y, GREY, width=1)
    points = [(left, y)]
    for number, value in enumerate(values):
        x = left + width * (number + 1) / len(values)
        points += [(points[-1][0], y - height * value / largest), (x, y - height * value / largest)]
    picture.path(points[1:], colour, width=1.5)


if __name__ == "__main__":
    print(save(draw(), __file__))
