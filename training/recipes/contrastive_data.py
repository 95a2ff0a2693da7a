"""What train_contrastive.py learns from: queries, plain texts or classes, all as rows of texts and who is alike."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

from recipes.contrastive import Contrastive
from recipes.frame import read, read_one

import numpy as np

from suzoo.data import check_labels, class_names, class_numbers, read_classes, read_pairs, read_queries, read_texts


def read_examples(recipe: Contrastive) -> tuple[Sequence[Any], Sequence[Any], dict[str, dict[str, Any]]]:
    """Training rows, dev rows and where they came from, by the reader that loss and examples need."""
    if recipe.takes_classes:
        train, dev, provenance = read(recipe, read_classes)
        if any(len(row.labels) != 1 for row in [*train, *dev]):
            raise ValueError(f"--loss {recipe.loss} takes texts of one class each; these have several or none")
        return train, dev, provenance
    if recipe.examples == "queries":
        return read(recipe, read_queries)
    source, split = recipe.dev_data
    train, trained = read_one(recipe, read_texts, recipe.data, recipe.split or "train", recipe.max_train_samples)
    dev, compared = read_one(recipe, read_pairs, source, split, recipe.max_dev_samples, columns=())
    check_labels(dev, recipe.dev or recipe.data_name)
    return train, dev, {"train": trained, "dev": compared}


def examples_of(
    recipe: Contrastive, train: Sequence[Any]
) -> tuple[list[tuple[str, ...]], list[tuple[int, int]], list[str]]:
    """Texts of each example, as many for all: query, positive, hard negatives; twice a text; or a text. Two numbers of
    each: rows that agree in one of them are alike. The names of the classes, where there are any."""
    if recipe.takes_classes:
        names = class_names(train, recipe.data_name)
        numbers = [number for (number,) in class_numbers(train, names, recipe.data_name)]
        return [(row.text,) for row in train], [(number, number) for number in numbers], names
    rows: list[tuple[str, ...]]
    if recipe.examples == "texts":
        rows = [(text, text) for text in train]
    else:
        fewest = min(len(row.negatives) for row in train)
        wanted = fewest if recipe.num_negatives is None else recipe.num_negatives
        if wanted > fewest:
            lacking = next(row for row in train if len(row.negatives) < wanted)
            raise ValueError(
                f"--num-negatives {wanted}, but the query {lacking.query[:40]!r} has {len(lacking.negatives)}: lower "
                "it, or leave such queries out"
            )
        rows = [(row.query, text, *row.negatives[:wanted]) for row in train for text in row.positives]
    return rows, [(text_number(row[0]), text_number(row[1])) for row in rows], []


def text_number(text: str) -> int:
    """The same for the same text on every machine."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "big")


def nearest_class_accuracy(encode: Callable[..., np.ndarray], rows: Sequence[Any]) -> float:
    """Share of the texts whose nearest other text has their class."""
    vectors = encode([row.text for row in rows], normalize=True)
    classes = np.array([row.labels[0] for row in rows])
    right = 0
    for start in range(0, len(rows), 1024):
        cosines = vectors[start : start + 1024] @ vectors.T
        cosines[np.arange(len(cosines)), np.arange(start, start + len(cosines))] = -np.inf
        right += int((classes[cosines.argmax(1)] == classes[start : start + 1024]).sum())
    return right / len(rows)
