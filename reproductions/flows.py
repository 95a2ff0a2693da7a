"""Gradient flow and Wasserstein flow, drawn.

Claim (kexue.fm/archives/9660): gradient descent with small steps is a flow, of a point dx/dt = -grad f; of a
distribution, with the Wasserstein distance, the Fokker-Planck equation, whose samples follow Langevin's. The first ends
in the minima, the second in e^-f.

    python reproductions/flows.py

An energy with four wells of different depth. Printed: the share of points in each well at the end, beside that of e^-f.

Verdict: holds: of four wells, the share of points after Wasserstein flow is .347, .272, .207, .174, that of e^-f .362,
.265, .215, .157; the gradient flow leaves .312, .244, .226, .218. Table in training/LOG.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from suzoo.analysis import gradient_flow, wasserstein_flow
from suzoo.analysis.flows import draw_flows


@dataclass
class Options:
    num_points: int = 1500
    time: float = 6.0
    num_steps: int = 1500
    picture: Path = Path("reproductions/figures/flows.png")


def energy(points: torch.Tensor) -> torch.Tensor:
    x, y = points[..., 0], points[..., 1]
    return (x**2 - 1.5) ** 2 / 1.5 + (y**2 - 1.5) ** 2 / 1.5 + 0.25 * x + 0.15 * y


def wells(points: torch.Tensor) -> list[float]:
    corner = 2 * (points[:, 0] > 0).long() + (points[:, 1] > 0).long()
    return (torch.bincount(corner, minlength=4) / len(points)).tolist()


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    generator = torch.Generator().manual_seed(0)
    start = 0.5 * torch.randn(options.num_points, 2, generator=generator, dtype=torch.float64)
    length = {"time": options.time, "num_steps": options.num_steps}
    flows = {
        "gradient flow": gradient_flow(energy, start, **length)[1],
        "Wasserstein flow": wasserstein_flow(energy, start, **length, generator=generator)[1],
    }
    axis = torch.linspace(-4, 4, 801, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    weight = torch.exp(-energy(grid))
    corner = 2 * (grid[:, 0] > 0).long() + (grid[:, 1] > 0).long()
    limit = [float(weight[corner == well].sum() / weight.sum()) for well in range(4)]
    print("share of", "left below, left above, right below, right above")
    for name, path in flows.items():
        print(f"{name:17}", " ".join(f"{share:.3f}" for share in wells(path[-1])))
    print(f"{'e^-f':17}", " ".join(f"{share:.3f}" for share in limit))
    options.picture.parent.mkdir(parents=True, exist_ok=True)
    draw_flows(energy, flows, options.picture, moments=(0.0, 0.02, 0.1, 1.0))


if __name__ == "__main__":
    main()
