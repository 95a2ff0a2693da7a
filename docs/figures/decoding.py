"""The probability of the end over the steps of a reply that a model would go on with for ever."""

from __future__ import annotations

import torch
from _svg import BLUE, GREEN, ORANGE, QUIET, Axes, Picture, save

from suzoo.decoding import SelfTerminatingHead

NUM_STEPS, VOCABULARY, EPSILON, END = 60, 50, 0.03, 0


def logits() -> torch.Tensor:
    """(1, L, V) scores of a model that loops: the end gets ever less likely, a few tokens take it all."""
    generator = torch.Generator().manual_seed(4)
    scores = torch.randn(1, NUM_STEPS, VOCABULARY, generator=generator, dtype=torch.float64)
    scores[..., END] -= torch.linspace(-1.0, 4.0, NUM_STEPS)
    return scores


def ends(monotonic: bool) -> list[float]:
    """The probability of the end at each step, as the head changes it."""
    head = SelfTerminatingHead(END, epsilon=EPSILON, monotonic=monotonic)
    is_start = torch.zeros(1, NUM_STEPS, dtype=torch.bool)
    is_start[0, 0] = True
    return head.log_probs(logits(), is_start)[0, :, END].exp().tolist()


def draw() -> Picture:
    picture = Picture(660, 330, "The probability of the end, over the steps of a text")
    picture.heading(
        "A text that has to end",
        f"Probability of the end at each step; ε = {EPSILON}. Greedy search ends above one half.",
    )
    steps = list(range(1, NUM_STEPS + 1))
    axes = Axes(
        picture,
        (50, 84, 450, 180),
        x=(1, NUM_STEPS),
        y=(0, 1),
        labels=("step", "p(end)"),
        ticks=({1: "1", 20: "20", 40: "40", 60: "60"}, {0: "0", 0.5: "0.5", 1: "1"}),
    )
    left, half = axes.place(1, 0.5)
    picture.line(left, half, left + 450, half, QUIET, width=1, dash="3 3")
    bound = [1 - (1 - EPSILON) ** step for step in steps]
    axes.curve(steps, bound, QUIET, width=1, dash="2 3")
    plain = logits().softmax(-1)[0, :, END].tolist()
    for values, colour, name in (
        (plain, BLUE, "softmax"),
        (ends(monotonic=False), ORANGE, "non-monotonic"),
        (ends(monotonic=True), GREEN, "monotonic"),
    ):
        axes.curve(steps, values, colour)
        picture.text(508, axes.place(1, values[-1])[1] + 4, name, colour=colour, bold=True)
    picture.text(20, 318, "dotted: 1 - (1 - ε)^step, below which neither head falls", size=11, colour=QUIET)
    return picture


if __name__ == "__main__":
    print(save(draw(), __file__))
