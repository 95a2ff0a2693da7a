"""Entropy of trained attention against log n, for seven kinds of positions.

Claims (kexue.fm/archives/8823, 9593): with scores over the square root of d attention spreads out behind the training
length, its entropy grows with log n; log n scaling in training keeps it, so that its share of log n falls.

    python reproductions/attention_entropy.py --data texts.txt.gz

The models of length_extrapolation.py, trained on 64 tokens, whose finished runs it reads; those that are missing are
trained. Entropy over log n of the visible keys, mean over queries, heads and layers: 1 is a uniform share, a level line
spreads out with log n as before.

Verdict: holds in part: three seeds, from 64 to 512 tokens the share rises by 0.068 ± 0.020 with RoPE (from 0.548) and
by 0.099 ± 0.022 with XPOS, and falls by 0.063 ± 0.008 with log n trained; it falls as well with ALiBi (0.074 ±
0.017), Sandwich (0.058 ± 0.004) and KERPLE's power form (0.092 ± 0.019), all of which go on behind the training
length, and log n alone does not. KERPLE's log form keeps it (-0.005 ± 0.021). Table in training/LOG.md.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import tyro
from _small_lm import Results, spread
from length_extrapolation import TRAINED, measure, stream_of
from length_extrapolation import Options as Training

KINDS = ("RoPE", "RoPE, log n trained", "XPOS", "ALiBi", "KERPLE (log)", "KERPLE (power)", "Sandwich")
STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1)), (0, (1, 2)), (0, (8, 2)))
MARKERS = "osD^vPX"


@dataclass
class Options:
    training: Training
    figure: Path = Path("reproductions/figures/attention_entropy.png")
    kinds: tuple[str, ...] = field(default=KINDS)


def main() -> None:
    options = tyro.cli(Options, description=__doc__, config=(tyro.conf.OmitArgPrefixes,))
    training = options.training
    streams = functools.cache(lambda: stream_of(training.data))  # where a run is missing
    results, columns = Results(str(training.out)), [str(n) for n in training.lengths]
    print(f"| | {' | '.join(columns)} | change |\n|---|{'---|' * (len(columns) + 1)}")
    figure, axes = plt.subplots(figsize=(6.5, 4), layout="constrained")
    for name, style, marker in zip(options.kinds, STYLES, MARKERS, strict=False):
        runs = [
            results.run(f"{name} {seed}", lambda name=name, seed=seed: measure(name, training, streams(), seed))
            for seed in training.seeds
        ]
        shares = [[run["entropy"][n] for n in columns] for run in runs]
        changes = [row[-1] - row[0] for row in shares]
        cells = [spread(column) for column in (*zip(*shares, strict=True), changes)]
        print(f"| {name} | {' | '.join(cells)} |")
        axes.semilogx(training.lengths, np.mean(shares, 0), linestyle=style, marker=marker, label=name)
    axes.axvline(TRAINED, color="gray", linewidth=0.8)
    axes.set(xlabel="n, length of the text (trained on the first)", ylabel="entropy / log n")
    axes.set_xticks(training.lengths, columns)
    axes.minorticks_off()
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    options.figure.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.figure, dpi=80)


if __name__ == "__main__":
    main()
