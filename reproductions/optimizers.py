"""AdamW, Lion, Tiger, AdaFactor and AdaX at tuned rates, over updates and over seconds.

Claims: Lion and Tiger learn no worse than AdamW with half its state (kexue.fm/archives/9473, 9512); AdaFactor without
momentum converges slower (7302); AdaX does no worse than Adam (7387). 9473 adds that Lion needs large batches.

    OMP_NUM_THREADS=1 python reproductions/optimizers.py --data texts.txt.gz

Rates are tried in factors of 2 with seed 0, until both neighbours of the best have been; the two best go on with the
other seeds, and the lower mean counts. Prints the table and draws figures/optimizers.png.

Verdict: holds in part: from scratch AdaX is the equal of AdamW (3.809 ± .008 against 3.798 ± .002), AdaFactor .08
behind as 7302 says; Lion (3.97, one seed of three fails) and Tiger (4.15) stay behind. Fine-tuning
is judged by optimizers_finetuning. Table in training/LOG.md.
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

# name -> optimizer of (model, rate), and the first rate to try
OPTIMIZERS = {
    "AdamW": (lambda m, lr: torch.optim.AdamW(param_groups(m, weight_decay=0.01), lr), 4e-3),
    "Lion": (lambda m, lr: Lion(param_groups(m, weight_decay=0.1), lr), 8e-4),
    "Lion (.95, .98)": (lambda m, lr: Lion(param_groups(m, weight_decay=0.1), lr, betas=(0.95, 0.98)), 8e-4),
    "Tiger": (lambda m, lr: Tiger(param_groups(m, weight_decay=0.01), lr), 1.5e-2),
    "AdaX": (lambda m, lr: AdaX(param_groups(m, weight_decay=0.0), lr), 4e-3),
    "AdaFactor": (lambda m, lr: AdaFactor(param_groups(m, weight_decay=0.0), lr), 1e-1),
}


@dataclass
class Options:
    data: str
    """Text file (.gz), one text per line."""
    results: str = "out/optimizers.json"
    """Where runs are kept; those that are there are not repeated."""
    figure: str = "reproductions/figures/optimizers.png"
    num_updates: int = 600
    batch_size: int = 64
    """Blocks of 32 tokens."""
    warmup: float = 0.3
    """Share of the updates."""
    names: tuple[str, ...] = tuple(OPTIMIZERS)
    """Which to run."""
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
            sizes = {"num_updates": options.num_updates, "batch_size": options.batch_size, "every": 30}
            return train(model, optimizer, blocks, dev, seed=seed, warmup=options.warmup, **sizes)

        return results.run(f"{name} {lr:g} seed {seed}", work)

    def tune(name: str, best: float) -> dict[float, float]:
        """Dev loss by rate, of enough rates that both neighbours of the best are there."""
        tried: dict[float, float] = {}
        while True:
            for lr in (best, best / 2, best * 2):
                tried[lr] = float(np.nan_to_num(run(name, lr, 0)["loss"][-1], nan=np.inf))
            centre, best = best, min(tried, key=lambda lr: tried[lr])
            if best == centre:
                return dict(sorted(tried.items()))

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), sharey=True)
    lowest = np.inf
    print("| optimizer | dev loss by rate (seed 0) | two best rates, all seeds | seconds |\n|---|---|---|---|")
    for name in options.names:
        tried = tune(name, OPTIMIZERS[name][1])
        runs = {lr: [run(name, lr, seed) for seed in range(options.seeds)] for lr in sorted(tried, key=tried.get)[:2]}
        best = min(runs, key=lambda lr: np.mean([r["loss"][-1] for r in runs[lr]]))
        cells = ", ".join(f"{lr:g}: {loss:.3f}" for lr, loss in tried.items())
        spreads = ", ".join(f"{lr:g}: {spread(r['loss'][-1] for r in runs[lr])}" for lr in sorted(runs))
        seconds = np.mean([r["seconds"] for r in runs[best]], 0)
        print(f"| {name} | {cells} | {spreads} | {seconds[-1]:.0f} |", flush=True)
        mean = np.mean([r["loss"] for r in runs[best]], 0)
        lowest = min(lowest, mean.min())
        axes[0].plot(runs[best][0]["updates"], mean)
        axes[1].plot(seconds, mean, label=f"{name} {best:g}")
    axes[0].set(xlabel="updates", ylabel="dev loss", ylim=(lowest - 0.1, lowest + 3))
    axes[1].set(xlabel="CPU seconds, one thread")
    axes[1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
    figure.tight_layout()
    figure.savefig(options.figure, dpi=80)


if __name__ == "__main__":
    main(tyro.cli(Options))
