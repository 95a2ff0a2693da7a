"""Logit adjustment: where a classifier draws the border of a rare class, trained with and without the prior."""

from __future__ import annotations

import math

import torch
from _svg import BLUE, GREEN, ORANGE, QUIET, Axes, Picture, save

from suzoo.losses import class_log_prior, cross_entropy_loss, logit_adjusted_cross_entropy

COUNTS, MEANS = torch.tensor([1000, 40]), (0.0, 2.0)


def texts() -> tuple[torch.Tensor, torch.Tensor]:
    """One feature of each text, spread as a normal distribution, and its class: many of one, few of the other."""
    features = []
    for count, mean in zip(COUNTS.tolist(), MEANS, strict=True):
        ranks = (torch.arange(count, dtype=torch.float64) + 0.5) / count
        features.append(mean + torch.special.ndtri(ranks))
    return torch.cat(features), torch.repeat_interleave(torch.arange(2), COUNTS)


def border(adjusted: bool) -> float:
    """The feature from which on a linear classifier, trained to the end, answers the rare class."""
    x, labels = texts()
    weights = torch.zeros(2, 2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")
    prior = class_log_prior(COUNTS).double()

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        logits = torch.stack([x, torch.ones_like(x)], 1) @ weights
        loss = logit_adjusted_cross_entropy(logits, labels, prior) if adjusted else cross_entropy_loss(logits, labels)
        loss.backward()
        return loss

    optimizer.step(closure)
    slope, offset = (weights[:, 1] - weights[:, 0]).tolist()
    return -offset / slope


def density(x: float, mean: float) -> float:
    return math.exp(-((x - mean) ** 2) / 2) / math.sqrt(2 * math.pi)


def draw() -> Picture:
    picture = Picture(640, 330, "The border of a rare class, with and without logit adjustment")
    picture.heading(
        "The prior out of the logits",
        f"Two classes of {COUNTS[0]} and {COUNTS[1]} texts; each border is that of a classifier trained to the end.",
    )
    axes = Axes(picture, (40, 96, 560, 170), x=(-3, 5), y=(0, 0.46), labels=("a feature of the text", ""))
    xs = [step / 20 for step in range(-60, 101)]
    for mean, colour, name in ((MEANS[0], BLUE, "frequent"), (MEANS[1], ORANGE, "rare")):
        axes.curve(xs, [density(x, mean) for x in xs], colour)
        place, y = axes.place(mean, 0.42)
        picture.text(place, y, name, anchor="middle", colour=colour, bold=True)
    misses = []
    for adjusted, colour, name in ((True, GREEN, "logit adjustment"), (False, QUIET, "cross-entropy")):
        found = border(adjusted)
        place, bottom = axes.place(found, 0)
        picture.line(place, bottom, place, 72, colour, width=2, dash=None if adjusted else "4 3")
        anchor, aside = ("end", -6) if adjusted else ("start", 6)
        picture.text(place + aside, 82, name, size=12, anchor=anchor, colour=colour, bold=True)
        misses.append(0.5 * (1 + math.erf((found - MEANS[1]) / math.sqrt(2))))
    picture.text(
        20, 318, f"Rare texts left of the border are missed: {misses[1]:.0%}, and {misses[0]:.0%} adjusted.", size=12
    )
    return picture


if __name__ == "__main__":
    print(save(draw(), __file__))
