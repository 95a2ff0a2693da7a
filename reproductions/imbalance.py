"""Losses for long-tailed classes: logit adjustment, class-balanced weights and F1-weighted cross-entropy.

Claim (kexue.fm/archives/7615, arXiv 2007.07314): adding the logarithm of the class frequencies to the logits raises the
balanced accuracy (CIFAR-100-LT from .399 to .441), and subtracting it after plain training does as well as that.
kexue.fm/archives/7708 derives the F1 weighting and gives no table.

    python reproductions/imbalance.py --data tnews.jsonl --model ENCODER --out out/imbalance

Here: the texts of TNEWS thinned out so that the classes, in random order, have from 200 down to 5 training rows, in
geometric steps; 40 rows of each for dev. The best of 14 passes by dev macro F1: two layers of 128 from scratch, or with
--model `cosent-zh-mini`.

Verdict: holds in part: from pretrained weights logit adjustment has .346 ± .014, cross-entropy .293 ± .004 (accuracy,
three seeds). Subtracted after training it gives nothing (.276 ± .020); class-balanced weights are ahead of both (.409 ±
.006), and the F1 weighting finds the frequent classes alone (.188 ± .005). From scratch logit adjustment gives nothing
(.219 ± .018 and .218 ± .016). On the embedded classes the order is the article's. Table in training/LOG.md.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import tyro
from _runs import start_from, table, write_jsonl

from suzoo.data import class_names, read_classes

COMMON = "--max-length 24 --tail-below 30"
SCRATCH = "--hidden-size 128 --num-layers 2 --lr 1e-3 --epochs 14 --vocab-size 3000"
PRETRAINED = "--lr 3e-4 --epochs 14 --batch-size 32"
VARIANTS = {
    "cross-entropy": "--loss ce",
    "logit adjustment": "--loss logit_adjustment",
    "class-balanced weights": "--loss class_balanced",
    "F1-weighted cross-entropy": "--loss f1",
}
METRICS = ("accuracy", "macro_f1", "tail_f1")  # dev has as many rows of every class, so accuracy is balanced accuracy


@dataclass
class Options:
    data: Path
    """Texts with a class each, as train_classifier.py reads them."""
    model: Path | None = None
    """Weights to start from; default is a small model from scratch."""
    most: int = 200
    """Training rows of the most frequent class."""
    least: int = 5
    """Training rows of the rarest class."""
    out: Path = Path("out/imbalance")
    """Folder of the runs; finished ones are kept."""
    seeds: tuple[int, ...] = (0, 1, 2)


def long_tailed(rows: list[dict], most: int, least: int, num_dev: int = 40) -> tuple[list[dict], list[dict]]:
    """(train, dev): train thinned out geometrically, dev of equal classes."""
    rng = random.Random(0)
    by_class: dict[str, list[dict]] = {}
    for row in rows:
        by_class.setdefault(row["label"], []).append(row)
    names = sorted(by_class)
    rng.shuffle(names)
    train, dev = [], []
    for place, name in enumerate(names):
        rng.shuffle(by_class[name])
        count = round(most * (least / most) ** (place / (len(names) - 1)))
        dev += by_class[name][:num_dev]
        train += by_class[name][num_dev : num_dev + count]
    rng.shuffle(train)
    return train, dev


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    read = read_classes(options.data)
    class_names(read)
    texts = {row.text: row.labels[0] for row in read}  # every text once
    rows = [{"text": text, "label": label} for text, label in texts.items()]
    train, dev = long_tailed(rows, options.most, options.least)
    data = ["--data", write_jsonl(options.out / "train.jsonl", train)]
    data += ["--dev", write_jsonl(options.out / "dev.jsonl", dev), "--post-hoc-tau", 1]
    variants = {name: flags.split() for name, flags in VARIANTS.items()}
    start = start_from(options.model, PRETRAINED, SCRATCH)
    run = {"common": [*COMMON.split(), *start, *data], "seeds": options.seeds, "columns": METRICS}
    table("train_classifier", "scratch", options.out, variants, **run)
    after = {"cross-entropy, adjusted after training": variants["cross-entropy"]}
    table("train_classifier", "scratch", options.out, after, **run, split="dev, post hoc", header=False)


if __name__ == "__main__":
    main()
