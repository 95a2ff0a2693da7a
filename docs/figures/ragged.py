"""A batch of sentences padded to the longest, and as suzoo computes it: padded inside the attention only."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from _svg import BLUE, GREY, ORANGE, QUIET, Picture, save

from suzoo.data.embedded import CORPORA
from suzoo.models._batching import length_groups

NUM_SENTENCES = 24


def lengths() -> list[int]:
    """Characters and two special tokens of sentences of both languages' embedded corpora, long and short ones."""
    sentences = [row["text"] for row in CORPORA["text_zh"]("train")[:NUM_SENTENCES]]
    articles = [row["source"] for row in CORPORA["titles_zh"]("train")[:3]]
    return [len(text) + 2 for text in [*sentences[: NUM_SENTENCES - 3], *articles]]


def draw() -> Picture:
    tokens = lengths()
    ordered = np.sort(tokens)
    cuts = length_groups(ordered)
    padded = len(tokens) * max(tokens)
    in_groups = sum((end - start) * int(ordered[end - 1]) for start, end in pairwise(cuts))
    scale, row, top = 250 / max(tokens), 8, 66
    picture = Picture(640, top + row * len(tokens) + 56, "A padded batch and a ragged one")
    picture.text(20, 26, "Padded to the longest", size=15, bold=True)
    picture.text(20, 46, f"{padded} positions, {sum(tokens)} of them tokens", size=12, colour=QUIET)
    picture.text(350, 26, "Ragged", size=15, bold=True)
    picture.text(
        350, 46, f"{sum(tokens)} positions; {in_groups} in the attention, {len(cuts) - 1} groups", size=12, colour=QUIET
    )
    for place, count in enumerate(tokens):
        y = top + place * row
        picture.rect(20, y, scale * max(tokens), row - 2, GREY)
        picture.rect(20, y, scale * count, row - 2, BLUE)
    for start, end in pairwise(cuts):
        for place in range(start, end):
            y = top + place * row
            picture.rect(350, y, scale * ordered[end - 1], row - 2, ORANGE, opacity=0.35)
            picture.rect(350, y, scale * ordered[place], row - 2, BLUE)
        if end < len(tokens):
            y = top + end * row - 1
            picture.line(350, y, 350 + scale * max(tokens), y, QUIET, width=1, dash="3 3")
    end = top + row * len(tokens) + 26
    for x, colour, name, share in (
        (20, BLUE, "tokens", 1),
        (90, GREY, "padding", 1),
        (350, ORANGE, "padding, in the attention only", 0.35),
    ):
        picture.rect(x, end - 10, 12, 12, colour, opacity=share)
        picture.text(x + 18, end, name, size=12)
    return picture


if __name__ == "__main__":
    print(save(draw(), __file__))
