"""What the target of a token is pulled by, over its probability: cross-entropy, and losses that let go of it."""

from __future__ import annotations

import torch
from _svg import BLUE, GREEN, ORANGE, RED, Axes, Picture, save

from suzoo.losses import cross_entropy_loss, flooding, tailr_loss

LOSSES = {
    "cross-entropy": (BLUE, lambda logits, labels: cross_entropy_loss(logits, labels)),
    "TaiLr, γ = 0.1": (GREEN, lambda logits, labels: tailr_loss(logits, labels, gamma=0.1)),
    "TaiLr, γ = 0.5": (ORANGE, lambda logits, labels: tailr_loss(logits, labels, gamma=0.5)),
    "flooding at 0.2": (RED, lambda logits, labels: flooding(cross_entropy_loss(logits, labels), 0.2)),
}
PROBABILITIES = [step / 100 for step in range(1, 100)]


def pull(loss, probability: float) -> float:
    """Minus the derivative of the loss by the target's logit, where the target has this probability."""
    logits = torch.tensor([[probability, 1 - probability]], dtype=torch.float64).log().requires_grad_()
    loss(logits, torch.tensor([0])).backward()
    return -logits.grad[0, 0].item()


def draw() -> Picture:
    picture = Picture(640, 330, "The pull on the target's logit over its probability")
    picture.heading(
        "What a token is pulled by", "Minus the derivative of each loss by the target's logit; above 0 it pulls up."
    )
    tenths = {number / 10: f"{number / 10:.1f}" for number in range(0, 11, 2)}
    axes = Axes(
        picture,
        (60, 84, 420, 200),
        x=(0, 1),
        y=(-0.25, 1),
        labels=("probability of the target", "pull"),
        ticks=(tenths, {0: "0", 0.5: "0.5", 1: "1"}),
    )
    left, zero = axes.place(0, 0)
    picture.line(left, zero, left + 420, zero, "#c9c9c6", width=1)
    for number, (name, (colour, loss)) in enumerate(LOSSES.items()):
        axes.curve(
            PROBABILITIES, [pull(loss, p) for p in PROBABILITIES], colour, dash="5 3" if "flood" in name else None
        )
        picture.text(500, 110 + 24 * number, name, colour=colour, bold=True)
    return picture


if __name__ == "__main__":
    print(save(draw(), __file__))
