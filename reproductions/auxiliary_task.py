"""A second task that contradicts the first: gradients weighted for a primary and an auxiliary task, against their sum.

Claims: u = g0 + sum of λ g_i with <g_i, u> >= 0 never raises the primary loss to first order, and lets an auxiliary
task weigh in only where following the primary one alone would make it worse (kexue.fm/archives/8907); the shortest
combination of both gradients makes neither worse (8896). No table is given.

    python reproductions/auxiliary_task.py --data stsb_zh.train.tsv --dev stsb_zh.dev.tsv --out out/auxiliary

Here: the primary task is CoSENT on 1,600 pairs, the auxiliary one to tell apart five classes that were drawn for every
text at random: only learning texts by heart helps it, and alike texts are to be told apart.

Verdict: holds in part: with 10 times the auxiliary loss the sum has .576 ± .011 (.589 ± .014 alone), the weighting .593
± .010 and the shortest combination .591 ± .010, both above the sum for each of three seeds; with the plain sum (.589 ±
.011) there is nothing to repair. Table in training/LOG.md.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import tyro
from _runs import table, write_jsonl

from suzoo.data import read_pairs

COMMON = "--hidden-size 128 --num-layers 2 --lr 1e-3 --epochs 4 --batch-size 64 --max-length 32 --vocab-size 3000"
VARIANTS = {
    "primary task alone": "",
    "sum of the losses": "--mix together",
    "primary and auxiliary": "--mix together --weighting primary_auxiliary",
    "10 times the auxiliary loss, sum": "--mix together --also-weight 10",
    "10 times, primary and auxiliary": "--mix together --also-weight 10 --weighting primary_auxiliary",
    "10 times, least norm (MGDA)": "--mix together --also-weight 10 --weighting min_norm",
    "10 times, gradients of equal norm": "--mix together --also-weight 10 --weighting inverse_gradient_norm",
    "10 times, PCGrad": "--mix together --also-weight 10 --weighting pcgrad",
}


@dataclass
class Options:
    data: Path
    """Sentence pairs to train on."""
    dev: Path
    """Sentence pairs to score."""
    max_train_samples: int = 1600
    out: Path = Path("out/auxiliary")
    """Folder of the runs; finished ones are kept."""
    seeds: tuple[int, ...] = (0, 1, 2)


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    pairs = read_pairs(options.data, max_rows=options.max_train_samples)
    rng = random.Random(0)
    texts = dict.fromkeys(text for pair in pairs for text in (pair.text1, pair.text2))
    also = write_jsonl(options.out / "also.jsonl", [{"text": text, "label": rng.randrange(5)} for text in texts])
    data = ["--data", options.data, "--dev", options.dev, "--max-train-samples", options.max_train_samples]
    run = {"common": [*COMMON.split(), *data], "seeds": options.seeds}
    for name, flags in VARIANTS.items():
        second = ["--also", also, "--also-dev", also] if flags else []  # what it learns is on the training texts
        table(
            "train_two_tasks" if flags else "train_cosent",
            "quickstart",
            options.out,
            {name: [*flags.split(), *second]},
            **run,
            columns=("spearman",),
            header=not flags,
        )


if __name__ == "__main__":
    main()
