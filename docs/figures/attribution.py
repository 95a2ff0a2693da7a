"""A coloured attribution: what made a small classifier choose its class, by integrated gradients."""

from __future__ import annotations

import torch
from _svg import BLUE, GREY, ORANGE, QUIET, Picture, blend, save
from transformers import BertConfig, BertForSequenceClassification

from suzoo.analysis import Explanation, explain
from suzoo.data.embedded import load
from suzoo.data.tokenizer import train_wordpiece

NUM_STEPS, BATCH = 120, 32

SHOWN = ("天气", "音乐", "闹钟")


def explanations() -> list[Explanation]:
    """Of three requests of the dev split, each of another class, by a classifier that is trained here in seconds."""
    rows = load("classes_zh")
    words = train_wordpiece((row["text"] for row in rows), vocab_size=800)
    names = sorted({row["label"] for row in rows})
    sizes = {"hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 96}
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        id2label=dict(enumerate(names)),
        label2id={name: i for i, name in enumerate(names)},
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        **sizes,
    )
    model = BertForSequenceClassification(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(NUM_STEPS):
        chosen = [rows[(step * BATCH + place) * 7 % len(rows)] for place in range(BATCH)]
        batch = words([row["text"] for row in chosen], padding=True, return_tensors="pt")
        labels = torch.tensor([names.index(row["label"]) for row in chosen])
        loss = model(**batch, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    by_class = {row["label"]: row["text"] for row in load("classes_zh", "dev")}
    return [explain(model, words, by_class[name]) for name in SHOWN]


def draw() -> Picture:
    made = explanations()
    rows = [
        [(token, value) for token, value in zip(one.tokens, one.values, strict=True) if token[0] != "["] for one in made
    ]
    widths = [[max(22, 15 * len(token.removeprefix("##")) + 10) for token, _ in row] for row in rows]
    picture = Picture(
        max(460, max(map(sum, widths)) + 60), 66 + 62 * len(rows) + 24, "Tokens coloured by what they add to the class"
    )
    picture.heading("Why this class?", "Orange adds to the class, blue takes from it.")
    for number, (one, row) in enumerate(zip(made, rows, strict=True)):
        y, x = 70 + 62 * number, 20
        largest = max(abs(value) for _, value in row)
        for (token, value), width in zip(row, widths[number], strict=True):
            share = round(abs(value) / largest, 1)
            picture.rect(
                x,
                y,
                width - 2,
                28,
                blend(ORANGE if value > 0 else BLUE, 0.9 * share) if share else blend(GREY, 0.3),
                round=4,
            )
            picture.text(x + width / 2 - 1, y + 20, token.removeprefix("##"), size=14, anchor="middle")
            x += width
        picture.text(20, y + 45, one.target, size=12, colour=QUIET)
    return picture


if __name__ == "__main__":
    print(save(draw(), __file__))
