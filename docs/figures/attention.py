"""Attention over length: its entropy grows with the number of keys, and less where scores are multiplied by log n."""

from __future__ import annotations

import numpy as np
import torch
from _svg import BLUE, ORANGE, QUIET, Axes, Picture, save

from suzoo.analysis.attention import gaussian_entropy
from suzoo.models._position_kinds import log_n_scale

LENGTHS = [16, 32, 64, 128, 256, 512, 1024, 2048, 4096]
BASE, STD, NUM_ROWS = 512, 2.0, 100


def entropies(scaled: bool) -> list[float]:
    """Mean entropy, in nats, of the softmax of normal scores, for each number of keys."""
    found = []
    for length in LENGTHS:
        scores = torch.from_numpy(np.random.default_rng(length).normal(0, STD, (NUM_ROWS, length)))
        if scaled:
            scores = scores * log_n_scale(torch.tensor(length), BASE, inference=False, dtype=torch.float64)
        log_probs = scores.log_softmax(-1)
        found.append(float(-(log_probs.exp() * log_probs).sum(-1).mean()))
    return found


def draw() -> Picture:
    picture = Picture(640, 320, "The entropy of attention over the number of keys")
    picture.heading(
        "Longer texts, thinner attention",
        f"Entropy of the softmax of normal scores; --log-n multiplies them by log n / log {BASE}.",
    )
    xs = [float(np.log2(length)) for length in LENGTHS]
    axes = Axes(
        picture,
        (60, 84, 450, 170),
        x=(xs[0], xs[-1]),
        y=(0, 8),
        labels=("keys", "nats"),
        ticks=({x: str(n) for x, n in zip(xs, LENGTHS, strict=True)}, {n: str(n) for n in range(0, 9, 2)}),
    )
    x, y = axes.place(float(np.log2(BASE)), 0)
    picture.line(x, y, x, axes.box[1], QUIET, width=1, dash="3 3")
    picture.text(x, axes.box[1] - 3, "trained with", size=11, anchor="middle", colour=QUIET)
    axes.curve(xs, [gaussian_entropy(length, STD) for length in LENGTHS], QUIET, width=1, dash="4 3")
    for scaled, colour, name in ((False, BLUE, "as it is"), (True, ORANGE, "with log n")):
        found = entropies(scaled)
        axes.curve(xs, found, colour, width=2.5)
        picture.text(520, axes.place(0, found[-1])[1] + 4, name, size=13, colour=colour, bold=True)
    picture.text(
        20, 306, "dashed: log n - std² / 2, what kexue.fm 8823 expects of the curve as it is", size=11, colour=QUIET
    )
    return picture


if __name__ == "__main__":
    print(save(draw(), __file__))
