"""AdamW, Lion, Tiger, AdaFactor and AdaX at tuned rates, over updates and over seconds.

Claims: Lion and Tiger learn no worse than AdamW with half its state (kexue.fm/archives/9473, 9512); AdaFactor without
momentum converges slower (7302); AdaX does no worse than Adam (7387). 9473 adds that Lion needs large batches.

    OMP_NUM_THREADS=1 python reproductions/optimizers.py --data texts.txt.gz

Every rate of the grid is tried with seed 0; the best goes on with the other seeds. Prints the table and draws
figures/optimizers.png. Result: training/LOG.md, "optimizers on a small language model".
"""

from __future__ import annotations

from dataclasses import dataclass

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
import tyro
from _small_lm import Results, read_blocks, small_model, spread, train

from suzoo.optimizers import AdaFactor, AdaX, Lion, Tiger, param_groups

OPTIMIZERS = {
    "AdamW": (lambda m, lr: torch.optim.AdamW(param_groups(m, weight_decay=0.01), lr), (1e-3, 3e-3, 1e-2)),
    "Lion": (lambda m, lr: Lion(param_groups(m, weight_decay=0.1), lr), (2e-4, 6e-4, 2e-3)),
    "Tiger": (lambda m, lr: Tiger(param_groups(m, weight_decay=0.01), lr), (5e-3, 1.5e-2, 5e-2)),
    "AdaFactor": (lambda m, lr: AdaFactor(param_groups(m, weight_decay=0.0), lr), (1e-2, 3e-2, 1e-1, 3e-1)),
    "AdaX": (lambda m, lr: AdaX(param_groups(m, weight_decay=0.0), lr), (1e-3, 3e-3, 1e-2)),
}


@dataclass
class Options:
    data: str
    """Text file (.gz), one text per line."""
    results: str = "out/optimizers.json"
    """Where runs are kept; those that are there are not repeated."""
    figure: str = "reproductions/figures/optimizers.png"
    num_updates: int = 200
    batch_size: int = 16
    """Blocks of 32 tokens."""
    seeds: int = 3


def main(options: Options) -> None:
    torch.set_num_threads(1)
    blocks, dev = read_blocks(options.data)
    vocab_size = int(max(blocks.max(), dev.max())) + 1
    results = Results(options.results)

    def run(name: str, lr: float, seed: int) -> dict:
        def work():
            model = small_model(vocab_size, seed)
            optimizer = OPTIMIZERS[name][0](model, lr)
            sizes = {"num_updates": options.num_updates, "batch_size": options.batch_size, "every": 20}
            return train(model, optimizer, blocks, dev, seed=seed, **sizes)

        return results.run(f"{name} {lr:g} seed {seed}", work)

    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), sharey=True)
    lowest = np.inf
    print("| optimizer | dev loss by rate (seed 0) | best rate, all seeds | seconds |\n|---|---|---|---|")
    for name, (_, grid) in OPTIMIZERS.items():
        tried = {lr: run(name, lr, 0)["loss"][-1] for lr in grid}
        best = min(grid, key=lambda lr: tried[lr] if np.isfinite(tried[lr]) else np.inf)
        runs = [run(name, best, seed) for seed in range(options.seeds)]
        cells = ", ".join(f"{lr:g}: {loss:.3f}" for lr, loss in tried.items())
        seconds = np.median([r["seconds"][-1] for r in runs])
        print(f"| {name} | {cells} | {best:g}: {spread(r['loss'][-1] for r in runs)} | {seconds:.0f} |", flush=True)
        mean = np.mean([r["loss"] for r in runs], 0)
        lowest = min(lowest, mean.min())
        axes[0].plot(runs[0]["updates"], mean, label=name)
        axes[1].plot(np.mean([r["seconds"] for r in runs], 0), mean, label=name)
    axes[0].set(xlabel="updates", ylabel="dev loss", ylim=(lowest - 0.1, lowest + 2.3))
    axes[1].set(xlabel="CPU seconds, one thread")
    axes[1].legend()
    figure.tight_layout()
    figure.savefig(options.figure, dpi=80)


if __name__ == "__main__":
    main(tyro.cli(Options))
