"""TaiLr and random replacement of the decoder's inputs on titles, against plain cross-entropy.

Claims: random replacement raises ROUGE and BLEU of CSL titles a little and lowers ROUGE-2 and BLEU on LCSTS
(kexue.fm/archives/7259); TaiLr raises BLEU and ROUGE (arXiv 2302.13344).

    python training/train_tta.py mlm --data sentences.txt --dev dev.txt --hidden-size 192 --lr 1e-3 --output-dir out/mlm
    python reproductions/exposure_bias.py --model out/mlm --data lcsts.train.tsv --dev lcsts.val.tsv

Here: UniLM from a small masked language model on the first 4,000 articles, two passes, greedy titles.

Verdict: in training/LOG.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro
from _runs import table

COMMON = "--lr 1e-3 --epochs 2 --max-length 126 --max-target-length 24 --micro-batch-tokens 2048 --max-scored 300"
VARIANTS = {
    "cross-entropy": "",
    "TaiLr 0.1": "--tailr 0.1",
    "random replacement 0.5": "--random-replacement 0.5",
}


@dataclass
class Options:
    model: Path
    """Masked language model to start from."""
    data: Path
    """Articles and titles to train on."""
    dev: Path
    """Articles and titles to score."""
    max_train_samples: int = 4000
    out: Path = Path("out/exposure-bias")
    """Folder of the runs; finished ones are kept."""
    seeds: tuple[int, ...] = (0, 1, 2)


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    data = ["--data", options.data, "--dev", options.dev, "--max-train-samples", options.max_train_samples]
    table(
        "train_unilm",
        "scratch",
        options.out,
        {name: flags.split() for name, flags in VARIANTS.items()},
        common=[*COMMON.split(), *data, "--model", options.model],
        seeds=options.seeds,
        columns=("rouge_1", "rouge_2", "rouge_l", "bleu", "bleu_mean"),
        split="generated",
    )


if __name__ == "__main__":
    main()
