"""CoSENT's order: which pairs a batch compares, and where the loss pushes each, by autograd."""

from __future__ import annotations

import torch
from _svg import BLUE, GREEN, ORANGE, QUIET, RED, Axes, Picture, save

from suzoo.losses import cosent_loss

SCORES = [0.86, 0.35, 0.61, 0.72, 0.15]
LABELS = [5, 4, 2, 1, 0]
COLOURS = [BLUE, GREEN, ORANGE, RED, RED]


def pushes() -> list[float]:
    """Minus the gradient of the loss in each score."""
    scores = torch.tensor(SCORES, dtype=torch.float64, requires_grad=True)
    cosent_loss(scores, torch.tensor(LABELS)).backward()
    return (-scores.grad).tolist()


def draw() -> Picture:
    picture = Picture(640, 300, "CoSENT compares the order of the cosines with the order of the labels")
    push = pushes()
    axes = Axes(
        picture,
        (150, 64, 440, 170),
        x=(0, 1),
        y=(-0.5, 4.5),
        labels=("cosine of the pair", ""),
        ticks=({value: f"{value:g}" for value in (0, 0.25, 0.5, 0.75, 1)}, {}),
    )
    picture.heading(
        "Only the order counts", "Every pair should have a higher cosine than each pair with a lower label."
    )
    for row, (score, label, amount) in enumerate(zip(SCORES, LABELS, push, strict=True)):
        x, y = axes.place(score, 4 - row)
        picture.text(138, y + 4, f"pair {row + 1}, label {label}", anchor="end", size=12)
        picture.line(axes.box[0], y, axes.box[0] + axes.box[2], y, "#e6e6e3", width=1)
        if abs(amount) > 0.02:
            end = x + 75 * amount / max(map(abs, push))
            picture.arrow(x, y, end, y, width=2.5)
        picture.circle(x, y, 7, COLOURS[row])
    wrong = sum(SCORES[i] < SCORES[j] for i in range(5) for j in range(5) if LABELS[i] > LABELS[j])
    picture.text(
        20,
        286,
        f"{wrong} of 10 orders are wrong. The worst, pair 2 below pair 4, gets nearly all of the gradient (arrows).",
        size=12,
        colour=QUIET,
    )
    return picture


if __name__ == "__main__":
    print(save(draw(), __file__))
