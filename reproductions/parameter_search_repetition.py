"""ParameterSearch (MGS) against the loops of greedy continuations, after cross-entropy.

Claim: cross-entropy leaves greedy continuations that repeat themselves; averaging a few disturbed weights by the score
of what they decode, guided by the gradient of cross-entropy, lowers repetition (arXiv 2006.03158;
kexue.fm/archives/7521).

    OMP_NUM_THREADS=1 python reproductions/parameter_search_repetition.py --data texts.txt.gz

A small causal model is trained by cross-entropy, one per seed; every variant goes on from it, on the same batches.
Blocks have 64 tokens, of which 16 are given and 48 continued. "beta 0" averages the same candidates without a look at
their scores.

Verdict: holds: repeated 4-grams .106 ± .020 against .190 ± .015 before and .207 ± .037 without a look at the scores,
for each of three seeds, at 1 % of perplexity. Table in training/LOG.md.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from _small_lm import Results, dev_loss, read_blocks, small_model, spread, train
from torch import Tensor
from transformers import BertLMHeadModel

from suzoo.evaluation import word_error_rate
from suzoo.optimizers import ParameterSearch, param_groups

LENGTH, PREFIX = 64, 16


def repetition(texts: Tensor) -> float:
    """Share of the 4-grams of a text (N, L) that were in it before, mean over the texts."""
    ngrams = texts.unfold(1, 4, 1).tolist()
    return float(np.mean([1 - len({tuple(ngram) for ngram in row}) / len(row) for row in ngrams]))


def edit_distance(texts: Tensor, references: Tensor) -> float:
    """Edits from the texts to the references (N, L), as a share of the tokens."""
    return word_error_rate(*([" ".join(map(str, row)) for row in ids.tolist()] for ids in (texts, references)))


# name -> beta of the search; None is AdamW on cross-entropy alone
VARIANTS = {"cross-entropy, AdamW 3e-4": None, "repetition, beta 0": 0.0, "repetition, beta 1000": 1000.0}


@dataclass
class Options:
    data: str
    """Text file (.gz), one text per line."""
    results: str = "out/parameter_search_repetition.json"
    """Where runs are kept, and the models before them; those that are there are not repeated."""
    num_updates: int = 1500
    """Of cross-entropy before, with 16 blocks."""
    num_steps: int = 96
    batch_size: int = 64
    """Blocks of a step, for cross-entropy and for the task loss."""
    guide: float = 0.1
    """Candidates are tried at this multiple of the gradient of cross-entropy; the noise is in units of it."""
    noise: float = 10.0
    lr: float = 0.1
    """Of the plain SGD that takes the mean of the candidates: tried far, stepped near."""
    seeds: int = 3


def main(options: Options) -> None:
    torch.set_num_threads(1)
    blocks, dev = read_blocks(options.data, length=LENGTH)
    blocks, held = blocks[:-256], blocks[-256:]
    vocab_size = int(max(blocks.max(), held.max(), dev.max())) + 1
    results = Results(options.results)

    def start(seed: int) -> BertLMHeadModel:
        """The model after cross-entropy."""
        model = small_model(vocab_size, seed, length=LENGTH)
        path = Path(options.results).with_suffix(f".{seed}.pt")
        if not path.exists():
            optimizer = torch.optim.AdamW(param_groups(model, weight_decay=0.01), 4e-3)
            sizes = {"num_updates": options.num_updates, "batch_size": 16, "every": options.num_updates}
            train(model, optimizer, blocks, dev, seed=seed, **sizes)
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save(model.state_dict(), path)
        model.load_state_dict(torch.load(path))
        return model

    def continuations(model: BertLMHeadModel, batch: Tensor) -> Tensor:
        sampling = {"do_sample": False, "max_new_tokens": LENGTH - PREFIX, "pad_token_id": 0}
        return model.generate(input_ids=batch[:, :PREFIX], **sampling)[:, PREFIX:]

    def go_on(name: str, seed: int) -> dict[str, list[float]]:
        """Scores of the held texts before and after."""
        model, beta = start(seed), VARIANTS[name]
        search = None
        if beta is None:
            optimizer = torch.optim.AdamW(param_groups(model, weight_decay=0.01), 3e-4)
        else:
            optimizer = search = ParameterSearch(
                torch.optim.SGD(model.parameters(), options.lr),
                beta=beta,
                noise=options.noise,
                max_grad_norm=None,
                seed=seed,
            )
        run: dict[str, list[float]] = {"loss": [], "repetition": [], "edit distance": [], "seconds": []}

        def evaluate(seconds: float) -> None:
            texts = continuations(model, held)
            run["loss"].append(dev_loss(model, held))
            run["repetition"].append(repetition(texts))
            run["edit distance"].append(edit_distance(texts, held[:, PREFIX:]))
            run["seconds"].append(seconds)

        evaluate(0.0)
        draw = np.random.default_rng(seed)
        started = time.process_time()
        for _ in range(options.num_steps):
            batch = blocks[draw.integers(len(blocks), size=options.batch_size)]
            (options.guide * model(input_ids=batch, labels=batch).loss).backward()
            if search is not None:
                search.task_loss = lambda batch=batch: repetition(continuations(model, batch))
            optimizer.step()
            optimizer.zero_grad()
        evaluate(time.process_time() - started)
        return run

    columns = ("repetition", "edit distance", "loss")
    print(f"| | {' | '.join(columns)} | seconds |\n|---|---|---|---|---|")
    for i, name in enumerate(VARIANTS):
        runs = [results.run(f"{name} seed {s}", lambda s=s, name=name: go_on(name, s)) for s in range(options.seeds)]
        if i == 0:
            print(f"| before | {' | '.join(spread(r[c][0] for r in runs) for c in columns)} | |")
        cells = [spread(r[column][1] for r in runs) for column in columns]
        print(f"| {name} | {' | '.join(cells)} | {np.median([r['seconds'][1] for r in runs]):.0f} |", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Options))
