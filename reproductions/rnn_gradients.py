"""How much of a gradient a recurrent network carries through time.

Claim (kexue.fm/archives/7888): of the one-step derivatives those of a plain RNN fade fastest; a GRU's are led by 1 - z
and an LSTM's by f, and with an open forget gate (bias 1, from the comments) most is kept.

    python reproductions/rnn_gradients.py

Largest singular value of d state_T / d state_0 after 10, 20 and 40 random steps, 32 units, torch's own start; the mean
of its logarithm to the base 10 over seeds.

Verdict: holds in part: log10 of the norm after 40 steps: RNN -12.67 ± 0.71, GRU -7.87 ± 0.12, LSTM -7.91 ± 0.11, with
forget bias 1 -3.14 ± 0.12; GRU and LSTM are equal. Table in training/LOG.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

import torch
import tyro
from torch import nn

from suzoo.analysis import gradients_through_time, set_forget_bias
from suzoo.analysis.gradients import plot_curves

NETWORKS = {"RNN": nn.RNN, "GRU": nn.GRU, "LSTM": nn.LSTM, "LSTM, forget bias 1": nn.LSTM}


@dataclass
class Options:
    size: int = 32
    num_steps: int = 40
    seeds: tuple[int, ...] = (0, 1, 2)
    picture: Path = Path("reproductions/figures/rnn_gradients.png")


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    curves, steps = {}, (10, 20, options.num_steps)
    print(f"| | {' | '.join(str(step) for step in steps)} |\n|---|{'---|' * len(steps)}")
    for name, kind in NETWORKS.items():
        found = []
        for seed in options.seeds:
            torch.manual_seed(seed)
            network = kind(options.size, options.size)
            if "forget" in name:
                set_forget_bias(network)
            norms = gradients_through_time(network, torch.randn(options.num_steps, options.size))
            found.append(norms.flip(0).log10())  # by how far back
        rows = [[float(norms[step]) for norms in found] for step in steps]
        cells = [f"{mean(row):.2f} ± {stdev(row) if len(row) > 1 else 0:.2f}" for row in rows]
        print(f"| {name} | {' | '.join(cells)} |")
        curves[name] = (10 ** torch.stack(found).mean(0)).tolist()
    options.picture.parent.mkdir(parents=True, exist_ok=True)
    plot_curves(curves, options.picture, xlabel="steps back", ylabel="norm of the Jacobian")


if __name__ == "__main__":
    main()
