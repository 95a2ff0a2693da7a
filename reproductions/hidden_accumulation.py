"""Accumulation hidden in the momentum beside the whole batch at once, k = 4 and 16.

Claims (kexue.fm/archives/8634): exact for SGD with momentum; nearly the same for AdamW. Ours beside it: Tiger exact too
(9512), and the step of the article's AdamW is up to √k shorter, which "sum_scaled_sq" avoids.

    OMP_NUM_THREADS=1 python reproductions/hidden_accumulation.py --data texts.txt.gz

Every update sees 32 blocks of 32 tokens: plain in one part, hidden in k parts. Prints the table and draws
figures/hidden_accumulation.png.

Verdict: holds in part: SGD and Tiger are exact (4.5540 both, 5.6593 both); the AdamW of the article is .26 behind at k
= 4 and .64 at k = 16, three seeds; the sum of squares is within .04 in 5 of 6 runs. Table in training/LOG.md.
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

from suzoo.optimizers import AccumulatedAdamW, AccumulatedSGD, Tiger, param_groups

# name -> (groups, k) -> optimizer; twice the rate is better still for the plain form: hidden steps too long show
FORMS = {
    "AdamW": {
        "plain": lambda groups, k: torch.optim.AdamW(groups, 2e-3),
        "sum of (g/k)²": lambda groups, k: AccumulatedAdamW(groups, 2e-3, accumulation_steps=k),
        "mean of g² (article)": lambda groups, k: AccumulatedAdamW(
            groups, 2e-3, accumulation_steps=k, second_moment="mean_sq"
        ),
    },
    "SGD": {
        "plain": lambda groups, k: torch.optim.SGD(groups, 0.3, momentum=0.9),
        "hidden": lambda groups, k: AccumulatedSGD(groups, 0.3, accumulation_steps=k),
    },
    "Tiger": {
        "plain": lambda groups, k: Tiger(groups, 5e-3),
        "hidden": lambda groups, k: Tiger(groups, 5e-3, accumulation_steps=k),
    },
}
COLORS = ("tab:blue", "tab:orange")


@dataclass
class Options:
    data: str
    """Text file (.gz), one text per line."""
    results: str = "out/hidden_accumulation.json"
    """Where runs are kept; those that are there are not repeated."""
    figure: str = "reproductions/figures/hidden_accumulation.png"
    num_updates: int = 400
    seeds: int = 3


def main(options: Options) -> None:
    torch.set_num_threads(1)
    blocks, dev = read_blocks(options.data)
    vocab_size = int(max(blocks.max(), dev.max())) + 1
    results = Results(options.results)

    def runs(name: str, form: str, k: int, seeds: int) -> list[dict]:
        def work(seed: int) -> dict:
            model = small_model(vocab_size, seed)
            optimizer = FORMS[name][form](param_groups(model, weight_decay=0.0 if name == "SGD" else 0.01), k)
            sizes = {"num_updates": options.num_updates, "batch_size": 32, "micro_steps": k, "every": 20}
            return train(model, optimizer, blocks, dev, seed=seed, **sizes)

        return [results.run(f"{name} {form} k={k} seed {seed}", lambda seed=seed: work(seed)) for seed in range(seeds)]

    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4))
    print("| optimizer | k | dev loss | difference from plain, by seed |\n|---|---|---|---|")
    for axis, (name, forms) in zip(axes, FORMS.items(), strict=True):
        seeds = options.seeds if name == "AdamW" else 1  # the exact ones need one seed to show it
        plain = runs(name, "plain", 1, seeds)
        print(f"| {name}, plain | | {spread(r['loss'][-1] for r in plain)} | |", flush=True)
        for k, style in ((4, ":"), (16, "-")):
            for form, color in zip(list(forms)[1:], COLORS, strict=False):
                hidden = runs(name, form, k, seeds)
                gaps = ", ".join(f"{h['loss'][-1] - p['loss'][-1]:+.4f}" for h, p in zip(hidden, plain, strict=True))
                print(f"| {name}, {form} | {k} | {spread(r['loss'][-1] for r in hidden)} | {gaps} |", flush=True)
                mean = np.mean([r["loss"] for r in hidden], 0)
                axis.plot(hidden[0]["updates"], mean, style, color=color, label=f"{form}, k = {k}")
        axis.plot(plain[0]["updates"], np.mean([r["loss"] for r in plain], 0), "k--", lw=1, label="plain")
        axis.set(title=name, xlabel="updates")
        axis.legend(fontsize=8)
    axes[0].set_ylabel("dev loss")
    figure.tight_layout()
    figure.savefig(options.figure, dpi=80)


if __name__ == "__main__":
    main(tyro.cli(Options))
