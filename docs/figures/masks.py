"""The four masks, as `suzoo.models` hands them to the attention."""

from __future__ import annotations

import torch
from _svg import BLUE, GREY, QUIET, SKY, Picture, save

from suzoo.models import TTAConfig
from suzoo.models._masks import causal_mask, off_diagonal_mask, prefix_mask

TOKENS = ["今", "天", "天", "气", "很", "好"]
NUM_SOURCE = 3  # of the tokens, where there is a source and a target


def masks() -> dict[str, tuple[str, torch.Tensor]]:
    """Name -> who reads so, and (L, L) True where the row's token sees the column's."""
    length = len(TOKENS)
    config, embeds = TTAConfig(), torch.zeros(1, length, 8)
    config._attn_implementation = "eager"  # which always gets a mask, of zeros and lowest floats
    source = (torch.arange(length) < NUM_SOURCE)[None]
    made = {
        "bidirectional": ("CoSENT, MLM", torch.zeros(1, 1, length, length)),
        "causal": ("DialoGPT", causal_mask(config, embeds, None)),
        "prefix": ("UniLM", prefix_mask(config, embeds, None, source)),
        "off-diagonal": ("T-TA", off_diagonal_mask(config, embeds, None)),
    }
    return {name: (who, mask[0, 0] == 0) for name, (who, mask) in made.items()}


def draw() -> Picture:
    cell, gap, left, top = 22, 42, 40, 66
    side = cell * len(TOKENS)
    picture = Picture(left + 4 * side + 3 * gap + 24, top + side + 46, "The four masks of suzoo's models")
    for number, (name, (who, mask_LL)) in enumerate(masks().items()):
        x = left + number * (side + gap)
        picture.text(x, 26, name, size=15, bold=True)
        picture.text(x, 43, who, size=12, colour=QUIET)
        for row, token in enumerate(TOKENS):
            picture.text(x - 6, top + row * cell + 16, token, anchor="end", size=12)
            picture.text(x + row * cell + cell / 2, top - 6, token, anchor="middle", size=12)
            for column, sees in enumerate(mask_LL[row].tolist()):
                is_target = name == "prefix" and row >= NUM_SOURCE
                colour = (SKY if is_target else BLUE) if sees else GREY
                place = (x + column * cell + 1, top + row * cell + 1, cell - 2, cell - 2)
                picture.rect(*place, colour, round=3, opacity=1 if sees else 0.45)
    end = top + side + 26
    picture.text(
        left,
        end,
        "The row's token sees the column's where it is blue; of the prefix mask, light rows are the target.",
        size=12,
        colour=QUIET,
    )
    return picture


if __name__ == "__main__":
    print(save(draw(), __file__))
