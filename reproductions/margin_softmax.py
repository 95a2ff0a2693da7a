"""A GRU of characters that finds sentences of one meaning: softmax, cosines, a margin, and the margin by the triangle
inequality.

Claims: trained to name some 90,000 groups of sentences, the GRU finds another sentence of the group first for .9077 of
them by softmax and for .9172 by AM-Softmax (kexue.fm/archives/5743); retrieval needs a margin of a class's mean
diameter in a true metric, found by training without one first (kexue.fm/archives/8656, no numbers).

    python reproductions/margin_softmax.py --data simclue_rank.tsv --out out/margin
    python reproductions/margin_softmax.py --data bq.dev.tsv lcqmc.dev.tsv --least 3 --num-groups 900 --num-kept 500

Here: groups of sentences that are queries and positives of each other, most of two sentences, 1,500 to train on, 16
epochs of batches of 100, Adam 1e-3, scale 30; of 1,000 other groups each sentence looks for another one of its group
among all. In the second line the groups are what pairs of one meaning connect, of three sentences or more.

Verdict: holds in part: AM-Softmax is far above softmax (first place .601 ± .008 against .183 ± .012, three seeds), but
so are cosines without a margin (.603 ± .007), and the estimated margin lowers .607 ± .013 to .591 ± .009. Sentences of
a class do come closer (diameter 1.436 and 1.281 with .35; 1.323 and 1.225 in chords). With three sentences or more a
class it is the same: .668 ± .005 with .35 and .673 ± .008 without, .660 ± .006 with the estimated margin and .672 ±
.008 without. Table in training/LOG.md.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from _runs import spread
from torch import Tensor, nn

from suzoo.data import flat_batch, read_ranked, train_wordpiece
from suzoo.engine import RandomBatches
from suzoo.losses import CosineLinear, am_softmax_loss, estimate_margin, metric_distance
from suzoo.models import CoSENTModel, GRUEncoderConfig

SCALE = 30.0


def chord(cosines: Tensor, labels: Tensor, margin: float = 0.0) -> Tensor:
    return am_softmax_loss(-metric_distance(cosines), labels, scale=SCALE, margin=margin)


ROWS: dict[str, Callable[..., Tensor]] = {
    "softmax": F.cross_entropy,  # of inner products, the vectors not normalised
    "softmax of cosines": partial(am_softmax_loss, scale=SCALE, margin=0.0),
    "AM-Softmax .35": partial(am_softmax_loss, scale=SCALE, margin=0.35),
    "softmax of chords": chord,
    "chords, estimated margin": chord,
}


@dataclass
class Options:
    data: tuple[Path, ...]
    """Rows of query, positives and negatives, or of pairs with a label of 0 or 1."""
    least: int = 2
    """Sentences of a group."""
    out: Path = Path("out/margin")
    """Folder of the results; finished runs are kept."""
    num_groups: int = 1500
    """Groups to train on."""
    num_kept: int = 1000
    """Groups kept aside."""
    epochs: int = 16
    lr: float = 1e-3
    seeds: tuple[int, ...] = (0, 1, 2)
    only: tuple[str, ...] = tuple(ROWS)
    """Rows of the table."""


def read_groups(paths: tuple[Path, ...], least: int) -> list[list[str]]:
    """Sentences of one meaning, as the rows connect them, in a random order; no sentence is in two."""
    parent: dict[str, str] = {}

    def root(text: str) -> str:
        while parent.setdefault(text, text) != text:
            text = parent[text]
        return text

    for row in chain.from_iterable(read_ranked(path) for path in paths):
        for text in row.positives:
            parent[root(text)] = root(row.query)
    groups: dict[str, list[str]] = {}
    for text in list(parent):
        groups.setdefault(root(text), []).append(text)
    found = [group for group in groups.values() if len(group) >= least]
    random.Random(0).shuffle(found)
    return found


def train(
    groups: list[list[str]], tokenizer, name: str, margin: float, seed: int, options: Options
) -> tuple[CoSENTModel, float]:
    """The encoder, and the mean diameter of its classes in chords."""
    torch.manual_seed(seed)
    config = GRUEncoderConfig(
        vocab_size=len(tokenizer), embedding_size=128, hidden_size=128, pad_token_id=tokenizer.pad_token_id
    )
    model = CoSENTModel(config, pooling="last")
    model.tokenizer, model.max_seq_length = tokenizer, 32
    head = nn.Linear(128, len(groups), bias=False) if name == "softmax" else CosineLinear(128, len(groups))
    loss = partial(ROWS[name], margin=margin) if margin else ROWS[name]
    rows = [(text, label) for label, group in enumerate(groups) for text in group]
    ids = tokenizer([text for text, _ in rows], truncation=True, max_length=32)["input_ids"]
    examples = [(row, label) for row, (_, label) in zip(ids, rows, strict=True)]

    def collate(chosen):
        return flat_batch([row for row, _ in chosen]), torch.tensor([label for _, label in chosen])

    batches = RandomBatches(examples, batch_size=100, collate=collate, seed=seed)
    optimizer = torch.optim.Adam([*model.parameters(), *head.parameters()], lr=options.lr)
    model.train()
    for step in range(options.epochs * batches.steps_per_epoch):
        inputs, labels = batches[step][0]
        optimizer.zero_grad()
        loss(head(model(**inputs).sentence_embedding), labels).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval()
    vectors = model.encode([text for text, _ in rows], output="torch")
    labels = torch.tensor([label for _, label in rows])
    return model, estimate_margin(vectors, labels, head.weight)


def found_among_first(model: CoSENTModel, groups: list[list[str]]) -> dict[str, float]:
    """Share of the sentences with another one of their group among the nearest 1, 5 and 10."""
    vectors = model.encode([text for group in groups for text in group], normalize=True)
    classes = np.array([label for label, group in enumerate(groups) for _ in group])
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -np.inf)
    hits = classes[(-cosines).argsort(1)[:, :10]] == classes[:, None]
    return {f"top{k}": float(hits[:, :k].any(1).mean()) for k in (1, 5, 10)}


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    groups = read_groups(options.data, options.least)
    kept, trained = groups[: options.num_kept], groups[options.num_kept :][: options.num_groups]
    tokenizer = train_wordpiece([text for group in trained for text in group], vocab_size=4000)

    def run(name: str, seed: int, margin: float = 0.0) -> dict[str, float]:
        path = options.out / f"{name} {seed}.json"
        if not path.exists():
            started = time.process_time()
            model, diameter = train(trained, tokenizer, name, margin, seed, options)
            found = found_among_first(model, kept) | {"diameter": diameter, "margin": margin}
            path.write_text(json.dumps(found))
            print(f"{path.stem}: {time.process_time() - started:.0f} s", file=sys.stderr, flush=True)
        return json.loads(path.read_text())

    columns = ("top1", "top5", "top10", "diameter", "margin")
    print(f"| | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}", flush=True)
    for name in options.only:
        runs = []
        for seed in options.seeds:
            # as the article has it: train without a margin, measure, train again with it
            before = run("softmax of chords", seed) if name == "chords, estimated margin" else None
            runs.append(run(name, seed, before["diameter"] if before else 0.0))
        print(f"| {name} | {' | '.join(spread([found[column] for found in runs]) for column in columns)} |", flush=True)


if __name__ == "__main__":
    main()
