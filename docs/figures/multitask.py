"""Two tasks whose gradients disagree, and the common step that each weighting makes of them."""

from __future__ import annotations

import torch
from _svg import BLUE, GREEN, GREY, ORANGE, QUIET, RED, Picture, save

from suzoo.multitask import inverse_gradient_norm, min_norm, pcgrad, primary_auxiliary

GRADIENTS = torch.tensor([[2.2, 0.5], [-0.9, 0.7]], dtype=torch.float64)  # of the first and the second task
WEIGHTINGS = {
    "sum": (lambda gramian: torch.ones(2, dtype=torch.float64), QUIET),
    "inverse_gradient_norm": (inverse_gradient_norm, ORANGE),
    "min_norm": (min_norm, BLUE),
    "pcgrad": (pcgrad, GREEN),
    "primary_auxiliary": (primary_auxiliary, RED),
}


def draw() -> Picture:
    panel, scale = 150, 36
    picture = Picture(20 + panel * len(WEIGHTINGS), 280, "Five weightings of two gradients")
    picture.heading("Two tasks, one step", "Grey: the gradients of both tasks. Shaded: steps that raise neither loss.")
    gramian = GRADIENTS @ GRADIENTS.T
    for number, (name, (weighting, colour)) in enumerate(WEIGHTINGS.items()):
        x, y = 20 + panel * number + 44, 170
        common = weighting(gramian).to(GRADIENTS) @ GRADIENTS
        picture._add(
            "polygon", points=" ".join(f"{px:.1f},{py:.1f}" for px, py in wedge(x, y, 90)), fill=GREY, opacity=0.35
        )
        for gradient in GRADIENTS.tolist():
            picture.arrow(x, y, x + scale * gradient[0], y - scale * gradient[1], "#8f8f8b", width=2)
        picture.arrow(x, y, x + scale * float(common[0]), y - scale * float(common[1]), colour, width=3)
        gains = [float(gradient @ common) for gradient in GRADIENTS]
        picture.text(20 + panel * number, 224, name, size=11, colour=colour, bold=True)
        for task, gain in enumerate(gains):
            said = "falls" if gain > 1e-6 else "rises" if gain < -1e-6 else "stays"
            picture.text(20 + panel * number, 242 + 16 * task, f"loss {task + 1} {said}", size=11, colour=QUIET)
    return picture


def wedge(x: float, y: float, size: float) -> list[tuple[float, float]]:
    """The directions within 90° of both gradients, as a triangle from (x, y)."""
    first, second = GRADIENTS.tolist()
    edges = [(-first[1], first[0]), (second[1], -second[0])]  # at right angles to each, towards the other
    long = [(size * a / (a * a + b * b) ** 0.5, size * b / (a * a + b * b) ** 0.5) for a, b in edges]
    return [(x, y), *((x + a, y - b) for a, b in long)]


if __name__ == "__main__":
    print(save(draw(), __file__))
