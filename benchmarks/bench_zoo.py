"""Sentence encoders side by side: Spearman on every test, size, speed; and the overlap of characters beside them.

    python benchmarks/bench_zoo.py --models e5=FOLDER small=FOLDER mini=FOLDER --prompts "e5=query: " \
        --data out/zoo/cosent-zh-mini-data/test*.tsv
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import tyro

from suzoo.data import Pair, numbers, read_pairs
from suzoo.evaluation import pair_cosines, spearman
from suzoo.models import CoSENTModel


@dataclass
class Options:
    models: tuple[str, ...]
    """name=folder of each encoder."""
    data: tuple[str, ...]
    """Files of sentence pairs."""
    prompts: tuple[str, ...] = ()
    """name=prompt of encoders whose texts want one."""
    speed: int = 400
    """Texts of the first file whose encoding is timed; the better of two passes."""


def overlap(pair: Pair) -> float:
    """Jaccard of the counted characters and pairs of characters of both texts."""

    def grams(text: str) -> Counter[str]:
        return Counter(text) + Counter(a + b for a, b in pairwise(text))

    one, other = grams(pair.text1), grams(pair.text2)
    return (one & other).total() / max(1, (one | other).total())


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    prompts = dict(prompt.split("=", 1) for prompt in options.prompts)
    tests = {Path(path).stem.removeprefix("test "): read_pairs(path) for path in options.data}
    print(f"| | {' | '.join(tests)} | MB in half precision | texts/s |\n|---|{'---|' * (len(tests) + 2)}", flush=True)
    scores = [spearman([overlap(pair) for pair in pairs], numbers(pairs, "label")) for pairs in tests.values()]
    print(f"| overlap of characters | {' | '.join(map(shown, scores))} | | |", flush=True)
    texts = [text for pair in next(iter(tests.values())) for text in (pair.text1, pair.text2)][: options.speed]
    for named in options.models:
        name, _, folder = named.partition("=")
        model, prompt = CoSENTModel.from_pretrained(folder), prompts.get(name)

        def encode(texts, model=model, prompt=prompt, **given):
            return model.encode(texts, prompt=prompt, **given)

        scores = [spearman(pair_cosines(encode, pairs), numbers(pairs, "label")) for pairs in tests.values()]
        seconds = []
        for _ in range(2):
            started = time.perf_counter()
            encode(texts)
            seconds.append(time.perf_counter() - started)
        size = 2 * sum(parameter.numel() for parameter in model.parameters()) / 1e6
        cells = " | ".join(map(shown, scores))
        print(f"| {name} | {cells} | {size:.1f} | {len(set(texts)) / min(seconds):.0f} |", flush=True)


def shown(score: float) -> str:
    return f"{score:.4f}".replace("0.", ".", 1)


if __name__ == "__main__":
    main()
