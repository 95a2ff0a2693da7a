"""The loss over the length of a step in the embeddings: along FGM's direction, and along random ones."""

from __future__ import annotations

import torch
from _svg import BLUE, GREY, ORANGE, QUIET, Axes, Picture, save
from torch import nn

from suzoo.regularizers import fgm

LENGTHS, NUM_RANDOM, WIDTH, NUM_TOKENS = [step / 10 for step in range(11)], 12, 16, 6


def trained() -> tuple[nn.Embedding, nn.Module, torch.Tensor, torch.Tensor]:
    """A small classifier of bags of tokens that has learnt its texts: embedding, head, ids, labels."""
    torch.manual_seed(0)
    embedding, head = nn.Embedding(40, WIDTH).double(), nn.Linear(WIDTH, 2).double()
    ids = torch.randint(40, (32, NUM_TOKENS), generator=torch.Generator().manual_seed(1))
    labels = ids[:, 0] % 2
    optimizer = torch.optim.AdamW([*embedding.parameters(), *head.parameters()], lr=0.05)
    for _ in range(8):
        optimizer.zero_grad()
        loss_of(embedding, head, ids, labels).backward()
        optimizer.step()
    return embedding, head, ids, labels


def loss_of(embedding, head, ids, labels) -> torch.Tensor:
    return nn.functional.cross_entropy(head(embedding(ids).tanh().mean(1)), labels)


def draw() -> Picture:
    parts = trained()
    embedding, head, ids, labels = parts
    adversarial = [fgm(lambda: loss_of(*parts), embedding, epsilon=length).item() for length in LENGTHS]
    generator, randoms = torch.Generator().manual_seed(2), []
    for _ in range(NUM_RANDOM):
        way = torch.randn(*ids.shape, WIDTH, generator=generator, dtype=torch.float64)
        way /= way.norm(dim=(1, 2), keepdim=True)  # of length 1 for each text, as FGM's
        states = [head((embedding(ids) + length * way).tanh().mean(1)) for length in LENGTHS]
        randoms.append([nn.functional.cross_entropy(state, labels).item() for state in states])
    picture = Picture(640, 330, "Loss over the length of a step in the embeddings")
    picture.heading(
        "A small step, well chosen",
        "The loss of a trained classifier where the embeddings of each text are moved by ε.",
    )
    top = 1.15 * max(adversarial)
    axes = Axes(
        picture,
        (60, 84, 450, 180),
        x=(0, 1),
        y=(0, top),
        labels=("ε", "loss"),
        ticks=(
            {length: f"{length:.1f}" for length in LENGTHS[::2]},
            {value: f"{value:.2f}" for value in (0.0, adversarial[0], adversarial[-1])},
        ),
    )
    for values in randoms:
        axes.curve(LENGTHS, values, GREY, width=1)
    axes.curve(LENGTHS, [sum(values) / NUM_RANDOM for values in zip(*randoms, strict=True)], BLUE)
    axes.curve(LENGTHS, adversarial, ORANGE, width=2.5)
    picture.text(520, axes.place(0, adversarial[-1])[1] + 4, "fgm", colour=ORANGE, bold=True)
    picture.text(520, axes.place(0, randoms[0][-1])[1] + 4, "random", colour=BLUE, bold=True)
    picture.text(20, 318, f"grey: {NUM_RANDOM} random directions; blue: their mean", size=11, colour=QUIET)
    return picture


if __name__ == "__main__":
    print(save(draw(), __file__))
