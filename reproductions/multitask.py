"""Two tasks on one picture that compete for a small encoder: weights by losses and by gradients.

Claims: weights by the losses themselves make training blind to the unit of each loss, which a sum is not
(kexue.fm/archives/8870); the shortest combination of the gradients never makes a task worse and is the way to a Pareto
optimum (kexue.fm/archives/8896). Neither gives a table.

    python reproductions/multitask.py

Here: two overlapping handwritten digits (scikit-learn's, 12 by 12 pixels), an encoder of 32 units and a head for each
digit; 800 steps of Adam, three seeds; the second loss as it is, and times 100. Accuracy on 4,000 pictures of digits
that were not trained on.

Verdict: holds: with the second loss times 100 the sum's first task falls from .952 ± .003 to .646 ± .106 (accuracy,
three seeds); divided by the first losses, or by the losses as they run, both tasks stay what they were (.952 and .948,
.955 and .953). Table in training/LOG.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
import tyro
from _runs import digits, spread
from torch import Tensor, nn

from suzoo.multitask import (
    InitialLoss,
    geometric_mean,
    inverse_gradient_norm,
    min_norm,
    multitask_backward,
    pcgrad,
    running_loss,
)

TRAINED = 1200  # digits; the rest is for the test
BY_LOSSES: dict[str, Callable[[], Callable[[Tensor], Tensor]]] = {
    "first alone": lambda: lambda losses: losses[0],
    "second alone": lambda: lambda losses: losses[1],
    "sum": lambda: torch.sum,
    "by the first losses": lambda: InitialLoss(2),
    "running losses": lambda: running_loss,
    "geometric mean": lambda: geometric_mean,
}
BY_GRADIENTS = {"inverse gradient norm": inverse_gradient_norm, "least norm": min_norm, "PCGrad": pcgrad}


@dataclass
class Options:
    num_steps: int = 800
    num_units: int = 32
    lr: float = 2e-3
    seeds: tuple[int, ...] = (0, 1, 2)
    only: tuple[str, ...] = (*BY_LOSSES, *BY_GRADIENTS)
    """Rows of the table."""


def overlaid(images: Tensor, labels: Tensor, number: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(number, 144) pictures of two digits each, and their (number, 2) classes."""
    chosen = torch.randint(len(images), (2, number), generator=generator)
    picture = torch.zeros(number, 12, 12)
    picture[:, :8, :8] = images[chosen[0]]
    picture[:, 4:, 4:] = torch.maximum(picture[:, 4:, 4:], images[chosen[1]])
    return picture.flatten(1), labels[chosen].T


def train(name: str, scale: float, seed: int, options: Options) -> list[float]:
    """Accuracy of both tasks, and the share of the steps that, taken a little way, make a task worse."""
    torch.manual_seed(seed)
    images, labels = digits(seed=0)
    encoder = nn.Sequential(nn.Linear(144, options.num_units), nn.ReLU())
    heads = nn.ModuleList(nn.Linear(options.num_units, 10) for _ in range(2))
    module = nn.ModuleList([encoder, heads])
    optimizer = torch.optim.Adam(module.parameters(), lr=options.lr)
    generator = torch.Generator().manual_seed(seed)
    by_losses = BY_LOSSES[name]() if name in BY_LOSSES else None

    def losses_of(pictures: Tensor, classes: Tensor) -> list[Tensor]:
        found = encoder(pictures)
        both = [F.cross_entropy(head(found), of_task) for head, of_task in zip(heads, classes.unbind(1), strict=True)]
        return [both[0], both[1] * scale]

    opposed = 0
    for _ in range(options.num_steps):
        losses = losses_of(*overlaid(images[:TRAINED], labels[:TRAINED], 128, generator))
        optimizer.zero_grad()
        gradients = [
            torch.cat([g.flatten() for g in torch.autograd.grad(loss, [*encoder.parameters()], retain_graph=True)])
            for loss in losses
        ]
        if by_losses is not None:
            by_losses(torch.stack(losses)).backward()
        else:
            multitask_backward(losses, encoder.parameters(), BY_GRADIENTS[name])
        update = torch.cat([weight.grad.flatten() for weight in encoder.parameters() if weight.grad is not None])
        opposed += any(float(gradient @ update) < -1e-6 * float(gradient @ gradient) for gradient in gradients)
        optimizer.step()
    pictures, classes = overlaid(images[TRAINED:], labels[TRAINED:], 4000, torch.Generator().manual_seed(1))
    with torch.no_grad():
        right = [head(encoder(pictures)).argmax(1) == classes[:, task] for task, head in enumerate(heads)]
    return [*(float(found.float().mean()) for found in right), opposed / options.num_steps]


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    torch.set_num_threads(1)
    print(
        "| | first | second | steps against a task | first, 100 times | second, 100 times |\n|---|---|---|---|---|---|"
    )
    for name in options.only:
        cells = []
        for scale in (1.0, 100.0):
            runs = [train(name, scale, seed, options) for seed in options.seeds]
            cells += [spread(column) for column in zip(*runs, strict=True)]
        print(f"| {name} | {' | '.join(cells[:5])} |", flush=True)


if __name__ == "__main__":
    main()
