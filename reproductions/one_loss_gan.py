"""A GAN in one loss and one backward, on points in the plane.

Claim (kexue.fm/archives/6387): generator and discriminator need no two losses and no turns; one loss whose gradients
are cut in the right places trains both at once.

    python reproductions/one_loss_gan.py

The real points lie on a ring of eight clouds. Printed, for three seeds: how many of the clouds the generator reaches,
and the share of its points that lie in a cloud; the picture is of the first seed.

Verdict: holds in part: one seed: all 8 clouds are reached, .772 of the points lie inside one. Table in training/LOG.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

import torch
import tyro
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor, nn

from suzoo.regularizers import one_loss_gan

NUM_CLOUDS, SPREAD = 8, 0.05


@dataclass
class Options:
    num_steps: int = 4000
    batch_size: int = 256
    lr: float = 5e-4
    seeds: tuple[int, ...] = (0, 1, 2)
    picture: Path = Path("reproductions/figures/one_loss_gan.png")


def centres() -> Tensor:
    angles = torch.arange(NUM_CLOUDS) * 2 * math.pi / NUM_CLOUDS
    return torch.stack([angles.cos(), angles.sin()], -1)


def real_points(number: int) -> Tensor:
    return centres()[torch.randint(NUM_CLOUDS, (number,))] + SPREAD * torch.randn(number, 2)


def perceptron(in_size: int, out_size: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(in_size, 128), nn.LeakyReLU(0.2), nn.Linear(128, 128), nn.LeakyReLU(0.2), nn.Linear(128, out_size)
    )


def trained(options: Options, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    generator, discriminator = perceptron(8, 2), perceptron(2, 1)
    parameters = [*generator.parameters(), *discriminator.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=options.lr, betas=(0.0, 0.9))
    for _ in range(options.num_steps):
        fake = generator(torch.randn(options.batch_size, 8))
        optimizer.zero_grad()
        one_loss_gan(discriminator, real_points(options.batch_size), fake).backward()
        optimizer.step()
    return generator


@torch.no_grad()
def quality(points: Tensor) -> tuple[int, float]:
    """Clouds that get a hundredth of the points at least, and the share of points within four deviations of a cloud."""
    distance, nearest = torch.cdist(points, centres()).min(-1)
    inside = distance < 4 * SPREAD
    counts = torch.bincount(nearest[inside], minlength=NUM_CLOUDS)
    return int((counts >= len(points) / 100).sum()), float(inside.float().mean())


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    found = []
    for seed in options.seeds:
        generator = trained(options, seed)
        with torch.no_grad():
            points = generator(torch.randn(2000, 8))
        found.append(quality(points))
        print(f"seed {seed}: {found[-1][0]} of {NUM_CLOUDS} clouds, {found[-1][1]:.3f} of the points inside one")
        if seed == options.seeds[0]:
            figure = Figure(figsize=(6, 3), layout="constrained")
            FigureCanvasAgg(figure)
            for axes, shown, title in zip(
                figure.subplots(1, 2), (real_points(2000), points), ("real", "generated"), strict=False
            ):
                axes.plot(*shown.T, ".", markersize=2, color="#0072B2")
                axes.set(xlim=(-1.5, 1.5), ylim=(-1.5, 1.5), xticks=[], yticks=[], title=title)
            options.picture.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(options.picture, dpi=120)
    shares = [share for _, share in found]
    print(f"inside: {mean(shares):.3f} ± {stdev(shares) if len(shares) > 1 else 0:.3f}")


if __name__ == "__main__":
    main()
