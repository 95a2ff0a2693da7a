"""Accumulation hidden in the momentum beside plain accumulation, k = 4 and 16.

Claims (kexue.fm/archives/8634): exact for SGD with momentum; nearly the same for AdamW. Ours beside it: Tiger exact too
(9512), and the step of the article's AdamW is up to √k shorter, which "sum_scaled_sq" avoids.

    OMP_NUM_THREADS=1 python reproductions/hidden_accumulation.py --data texts.txt.gz

Every update sees 16 blocks of 32 tokens in k parts; "plain" is the same optimizer on the mean gradient. Prints the
table and draws figures/hidden_accumulation.png. Result: training/LOG.md, "accumulation hidden in AdamW's moments".
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

from suzoo.optimizers import Accumulated, AccumulatedAdamW, AccumulatedSGD, Tiger, param_groups

# name -> (groups, k) -> optimizer; the rates are good ones for the plain form
PLAIN = {
    "AdamW": lambda groups, k: Accumulated(torch.optim.AdamW(groups, 3e-3, weight_decay=0.01), k),
    "SGD": lambda groups, k: Accumulated(torch.optim.SGD(groups, 0.3, momentum=0.9), k),
    "Tiger": lambda groups, k: Accumulated(Tiger(groups, 1.5e-2), k),
}
HIDDEN = {
    "AdamW": {
        "sum of (g/k)²": lambda groups, k: AccumulatedAdamW(groups, 3e-3, accumulation_steps=k),
        "mean of g² (article)": lambda groups, k: AccumulatedAdamW(
            groups, 3e-3, accumulation_steps=k, second_moment="mean_sq"
        ),
    },
    "SGD": {"hidden": lambda groups, k: AccumulatedSGD(groups, 0.3, accumulation_steps=k)},
    "Tiger": {"hidden": lambda groups, k: Tiger(groups, 1.5e-2, accumulation_steps=k)},
}


@dataclass
class Options:
    data: str
    """Text file (.gz), one text per line."""
    results: str = "out/hidden_accumulation.json"
    """Where runs are kept; those that are there are not repeated."""
    figure: str = "reproductions/figures/hidden_accumulation.png"
    num_updates: int = 100
    seeds: int = 3


def main(options: Options) -> None:
    torch.set_num_threads(1)
    blocks, dev = read_blocks(options.data)
    vocab_size = int(max(blocks.max(), dev.max())) + 1
    results = Results(options.results)

    def runs(name: str, make, k: int, seeds: int) -> list[dict]:
        def work(seed: int) -> dict:
            model = small_model(vocab_size, seed)
            optimizer = make(param_groups(model, weight_decay=0.0 if "SGD" in name else 0.01), k)
            sizes = {"num_updates": options.num_updates, "batch_size": 16, "micro_steps": k, "every": 15}
            return train(model, optimizer, blocks, dev, seed=seed, **sizes)

        return [results.run(f"{name} k={k} seed {seed}", lambda seed=seed: work(seed)) for seed in range(seeds)]

    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), sharey=True)
    print("| optimizer | k | dev loss | difference from plain, by seed |\n|---|---|---|---|")
    for name, forms in HIDDEN.items():
        seeds = options.seeds if name == "AdamW" else 1  # the exact ones need one seed to show it
        for k, axis in zip((4, 16), axes, strict=True):
            plain = runs(f"{name} plain", PLAIN[name], k, seeds)
            print(f"| {name}, plain | {k} | {spread(r['loss'][-1] for r in plain)} | |")
            for form, make in forms.items():
                hidden = runs(f"{name} {form}", make, k, seeds)
                gaps = [h["loss"][-1] - p["loss"][-1] for h, p in zip(hidden, plain, strict=True)]
                gap = ", ".join(f"{value:+.4f}" for value in gaps)
                print(f"| {name}, {form} | {k} | {spread(r['loss'][-1] for r in hidden)} | {gap} |", flush=True)
                if name == "AdamW":
                    axis.plot(hidden[0]["updates"], np.mean([r["loss"] for r in hidden], 0), label=form)
            if name == "AdamW":
                axis.plot(plain[0]["updates"], np.mean([r["loss"] for r in plain], 0), "k--", label="plain")
                axis.set(title=f"AdamW, k = {k}", xlabel="updates", ylim=(4.8, 7))
    axes[0].set_ylabel("dev loss")
    axes[1].legend()
    figure.tight_layout()
    figure.savefig(options.figure, dpi=80)


if __name__ == "__main__":
    main(tyro.cli(Options))
