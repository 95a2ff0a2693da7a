"""T-TA's two streams, and what follows: no prediction depends on its own token, measured by changing the tokens."""

from __future__ import annotations

import torch
from _svg import BLUE, GREY, ORANGE, QUIET, SKY, Picture, blend, save
from transformers import BertConfig, BertForMaskedLM

from suzoo.models import TTAConfig, TTAForMaskedLM

LENGTH = 6
SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 32, "vocab_size": 20}


def influence(model: torch.nn.Module) -> torch.Tensor:
    """(L, L) how much the logits at the row's place change when the column's token does, of the largest change."""
    ids = torch.arange(5, 5 + LENGTH)[None]
    with torch.no_grad():
        before = model(input_ids=ids).logits[0]
        changes = []
        for place in range(LENGTH):
            other = ids.clone()
            other[0, place] = 15
            changes.append((model(input_ids=other).logits[0] - before).abs().amax(-1))
    change_LL = torch.stack(changes, 1)
    return change_LL / change_LL.max()


def models() -> dict[str, torch.nn.Module]:
    torch.manual_seed(0)
    return {
        "BERT": BertForMaskedLM(BertConfig(**SIZES, initializer_range=0.3)).eval(),
        "T-TA": TTAForMaskedLM(TTAConfig(**SIZES, initializer_range=0.3, mask_token_id=4)).eval(),
    }


def draw() -> Picture:
    picture = Picture(700, 318, "The two streams of T-TA, and which token changes which prediction")
    picture.heading("Two streams", "Keys and values never leave the input.")
    for number in range(3):
        y = 196 - 52 * number
        picture.rect(180, y, 96, 32, BLUE, round=5)
        picture.text(228, y + 21, f"layer {number + 1}", anchor="middle", colour="#ffffff")
        picture.line(112, y + 16, 140, y + 16, ORANGE, width=2) if number else None
        picture.arrow(140 if number else 112, y + 16, 179, y + 16, ORANGE, width=2)
        picture.arrow(228, y, 228, y - 19, BLUE, width=2)
    picture.line(66, 196, 66, 108, ORANGE, width=2)
    picture.line(66, 160, 112, 160, ORANGE, width=2)
    picture.line(66, 108, 112, 108, ORANGE, width=2)
    picture.rect(20, 196, 92, 32, ORANGE, round=5)
    picture.text(66, 217, "the tokens", anchor="middle")
    picture.rect(180, 250, 96, 32, SKY, round=5)
    picture.text(228, 271, "[MASK] each", anchor="middle")
    picture.arrow(228, 250, 228, 229, BLUE, width=2)
    picture.text(228, 66, "predictions", anchor="middle")
    picture.text(20, 302, "Orange: keys and values, the same everywhere.", size=11, colour=QUIET)
    for number, (name, model) in enumerate(models().items()):
        left, top, cell = 350 + number * 175, 92, 24
        picture.text(left, 28, name, size=15, bold=True)
        picture.text(left, 46, "A prediction's own token", size=12, colour=QUIET)
        change_LL = influence(model)
        own = float(change_LL.diagonal().max())
        picture.text(left, 64, f"changes it by {own:.2f}" if own else "changes it by nothing", size=12, colour=QUIET)
        for row in range(LENGTH):
            for column in range(LENGTH):
                share = round(float(change_LL[row, column]), 1)
                place = (left + column * cell + 1, top + row * cell + 1, cell - 2, cell - 2)
                picture.rect(*place, blend(BLUE, share) if share else blend(GREY, 0.45), round=3)
        picture.text(left + 3 * cell, top + 6 * cell + 18, "token changed", size=11, anchor="middle", colour=QUIET)
    picture.text(350, 302, "Row: prediction. The bluer, the more it changes.", size=11, colour=QUIET)
    return picture


if __name__ == "__main__":
    print(save(draw(), __file__))
