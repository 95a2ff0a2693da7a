"""What train_contrastive.py learns from: queries, plain texts or classes, all as rows of texts and who is alike."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

from recipes.contrastive import Contrastive
from recipes.frame import read, read_one, read_train

import numpy as np

from suzoo.data import (
    Classified,
    Pair,
    Ranked,
    check_labels,
    class_names,
    class_numbers,
    read_classes,
    read_pairs,
    read_queries,
    read_texts,
)


def read_examples(recipe: Contrastive) -> tuple[Any, Any, dict[str, dict[str, Any]]]:
    """Training rows, dev rows and where they came from, by the reader that loss and examples need."""
    if recipe.takes_classes:
        train, dev, provenance = read(recipe, read_classes)
        check_one_class(chain(train, dev), f"--loss {recipe.loss}")
        return train, dev, provenance
    if recipe.examples == "queries":
        return read(recipe, read_queries)
    source, split = recipe.dev_data
    train, trained = read_train(recipe, read_texts)
    dev, compared = read_one(recipe, read_pairs, source, split, recipe.max_dev_samples, columns=())
    check_labels(dev, recipe.dev or recipe.data_name)
    return train, dev, {"train": trained, "dev": compared}


def check_one_class(rows: Iterable[Classified], who: str) -> None:
    if any(len(row.labels) != 1 for row in rows):
        raise ValueError(f"{who} takes texts of one class each; these have several or none")


def texts_of(row: Any) -> list[str]:
    """All texts of a row of `read_examples`, or of a pair."""
    if isinstance(row, Pair):
        return [row.text1, row.text2]
    return [row.query, *row.positives, *row.negatives] if isinstance(row, Ranked) else [getattr(row, "text", row)]


class Chosen(Sequence[tuple[list[np.ndarray], np.ndarray]]):
    """Examples: the tokens of some texts of a row, as many for all, and two numbers: who agrees in one is alike.

    Args:
        rows: (n,) the row of each example.
        places: (n, texts of an example) which of `texts_of(row)` they are.
        alike: (n, 2) int64.
    """

    tokens: Sequence[dict[str, np.ndarray]]  # of `tokens_of`, per row

    def __init__(self, rows: np.ndarray, places: np.ndarray, alike: np.ndarray):
        self.rows, self.places, self.alike = rows, places, alike

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number):
        row = self.tokens[int(self.rows[number])]
        texts = np.split(row["input_ids"], np.cumsum(row["lengths"])[:-1])
        return [texts[place] for place in self.places[number]], self.alike[number]

    def pairs(self) -> Iterator[tuple[int, int]]:
        """The row of each example, and the place of its second text."""
        return zip(map(int, self.rows), map(int, self.places[:, 1]), strict=True)

    def sizes(self, rows: Sequence[int]) -> list[int]:
        """Examples of each source, from the rows of each."""
        return np.diff(np.searchsorted(self.rows, np.cumsum([0, *rows]))).tolist()


def tokens_of(encode: Callable[[list[str]], list[list[int]]], rows: Sequence[Any]) -> dict[str, list[list[int]]]:
    """The texts of each row end to end, and their lengths.

    Args:
        encode: texts -> token ids.
    """
    found = [texts_of(row) for row in rows]
    ids = iter(encode([text for texts in found for text in texts]))
    of_rows = [[next(ids) for _ in texts] for texts in found]
    lengths = [[len(text) for text in texts] for texts in of_rows]
    return {"input_ids": [list(chain.from_iterable(texts)) for texts in of_rows], "lengths": lengths}


def examples_of(recipe: Contrastive, train: Sequence[Any]) -> tuple[Chosen, list[str]]:
    """Query, positive and hard negatives; twice a text; or a text. The names of the classes, where there are any."""
    everyone = np.arange(len(train), dtype=np.uint32)
    if recipe.takes_classes:
        names = class_names(train, recipe.data_name)
        numbers = np.array([number for (number,) in class_numbers(train, names, recipe.data_name)])
        return Chosen(everyone, np.zeros((len(train), 1), np.uint8), np.stack([numbers, numbers], 1)), names
    if recipe.examples == "texts":
        numbers = np.fromiter(map(text_number, train), np.int64, len(train))
        return Chosen(everyone, np.zeros((len(train), 2), np.uint8), np.stack([numbers, numbers], 1)), []
    fewest = min(len(row.negatives) for row in train)
    wanted = fewest if recipe.num_negatives is None else recipe.num_negatives
    if wanted > fewest:
        lacking = next(row for row in train if len(row.negatives) < wanted)
        raise ValueError(
            f"--num-negatives {wanted}, but the query {lacking.query[:40]!r} has {len(lacking.negatives)}: lower "
            "it, or leave such queries out"
        )
    rows, places, alike = array("I"), array("I"), array("q")
    for number, row in enumerate(train):
        query, behind = text_number(row.query), 1 + len(row.positives)
        for place, text in enumerate(row.positives, start=1):
            rows.append(number)
            places.extend((0, place, *range(behind, behind + wanted)))
            alike.extend((query, text_number(text)))
    of_each = np.asarray(places).reshape(len(rows), 2 + wanted)
    return Chosen(np.asarray(rows), of_each, np.asarray(alike).reshape(-1, 2)), []


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
