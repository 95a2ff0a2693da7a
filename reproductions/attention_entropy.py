"""Entropy of trained attention against log n, and its answer to noise, before and after training.

Claims (kexue.fm/archives/9593, 8823): training takes entropy out of attention, which starts near log n; with scores
over the square root of d it grows with log n behind the training length, log n scaling keeps it; noise on the scores
cancels in the sum over many keys.

    python reproductions/attention_entropy.py --data texts.txt.gz

The models of length_extrapolation.py, trained on 64 tokens, and RoPE as it starts. The first table has the entropy in
nats of the queries with that many visible keys, mean over layers and heads, and what it grows by per unit of log n from
64 to 512 (1 is a uniform share, 0 is kept); the second what noise N(0, .5^2) on the scores moves the heads' outputs by,
as a share.

Verdict: in training/LOG.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import tyro
from _small_lm import Results, spread
from length_extrapolation import MODELS, TRAINED, stream_of, trained

from suzoo.analysis import attention_report

KINDS = ("RoPE", "RoPE, log n trained", "ALiBi", "Sandwich")
AT_START = "RoPE, not trained"


@dataclass
class Options:
    data: str
    """A text file, one text per line, also .gz."""
    lengths: tuple[int, ...] = (16, 32, 64, 128, 256, 512)
    num_updates: int = 450
    out: Path = Path("out/attention-entropy/runs.json")
    figure: Path = Path("reproductions/figures/attention_entropy.png")
    seeds: tuple[int, ...] = (0, 1, 2)


def measure(name: str, options: Options, streams, seed: int) -> dict:
    train_stream, test_stream, vocab_size = streams
    fields, num_updates = (MODELS["RoPE"], 0) if name == AT_START else (MODELS[name], options.num_updates)
    model = trained(fields, train_stream, vocab_size, num_updates, seed)
    found: dict = {"loss": [math.nan], "seconds": [0.0], "entropy": {}, "noise": {}}
    for n in options.lengths:
        ids = test_stream[: 2048 // n * n].view(-1, n)
        report = attention_report(model, {"input_ids": ids}, last=1)
        found["entropy"][str(n)] = float(report.entropy.mean())
        found["noise"][str(n)] = float(report.noise.mean())
    return found


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    streams, results = stream_of(options.data), Results(str(options.out))
    columns = [str(n) for n in options.lengths]
    tables: dict[str, list[str]] = {"entropy": [], "noise": []}
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    axes.semilogx(options.lengths, np.log(options.lengths), ":", color="black", label="log n")
    styles = iter(["-", "--", "-.", ":", (0, (3, 1, 1, 1))])
    for name in (AT_START, *KINDS):
        runs = [
            results.run(f"{name} {seed}", lambda name=name, seed=seed: measure(name, options, streams, seed))
            for seed in options.seeds
        ]
        for kind, table in tables.items():
            cells = [spread(run[kind][n] for run in runs) for n in columns]
            if kind == "entropy":
                cells.append(spread((run[kind]["512"] - run[kind]["64"]) / math.log(8) for run in runs))
            table.append(f"| {name} | {' | '.join(cells)} |")
        means = [np.mean([run["entropy"][n] for run in runs]) for n in columns]
        axes.semilogx(options.lengths, means, linestyle=next(styles), label=name)
    for kind, table in tables.items():
        heads = [*columns, *(["per log n"] if kind == "entropy" else [])]
        print(f"{kind}\n\n| | {' | '.join(heads)} |\n|---|{'---|' * len(heads)}")
        print("\n".join(table) + "\n")
    axes.axvline(TRAINED, color="gray", linewidth=0.8)
    axes.set(xlabel="n, visible keys (trained up to the line)", ylabel="entropy, nats")
    axes.set_xticks(options.lengths, columns)
    axes.legend()
    options.figure.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.figure, dpi=80)


if __name__ == "__main__":
    main()
