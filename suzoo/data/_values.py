"""What a value of a row must be: one by one, with the sentence that names place and field, and whole columns at once.

The second way says only `Odd`, upon which the block is read by the first; what both take is the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from suzoo.data._columns import Odd
from suzoo.data._errors import DataError

NLI_CLASSES = {
    "contradiction": 0.0, "not_entailment": 0.0, "contradict": 0.0, "contradictory": 0.0, "矛盾": 0.0,
    "neutral": 1.0, "中立": 1.0, "中性": 1.0,
    "entailment": 2.0, "entail": 2.0, "entails": 2.0, "蕴含": 2.0, "蕴涵": 2.0,
}  # fmt: skip


def value_of(where: str, row: dict, field: str, column: str):
    value = row.get(column)
    if value is None:
        raise DataError(f"{where}: {field} is missing" + (f" (column {column!r})" if column != field else ""))
    return value


def text_of(where: str, row: dict, field: str, column: str, *, may_be_empty: bool = False) -> str:
    value = value_of(where, row, field, column)
    if not isinstance(value, str):
        raise DataError(f"{where}: {field} is not a text but {value!r:.40}")
    if not may_be_empty and not value.strip():
        raise DataError(f"{where}: {field} is empty")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: {field} holds half a character ({value[error.start]!r}), as of a cut emoji"
        ) from error
    return value


def texts_of(where: str, row: dict, field: str, column: str) -> list[str]:
    """A text, or a list of texts."""
    value = value_of(where, row, field, column)
    return [text_of(where, {column: text}, field, column) for text in (value if isinstance(value, list) else [value])]


def label_of(where: str, value: object) -> tuple[float, str]:
    """The label and whether it is a number or a class."""
    if isinstance(value, str) and value.strip().lower() in NLI_CLASSES:
        return NLI_CLASSES[value.strip().lower()], "class"
    try:
        label = float(value)  # ty: ignore[invalid-argument-type]
    except (TypeError, ValueError, OverflowError):
        raise DataError(
            f"{where}: label is neither a number nor contradiction, neutral or entailment, but {value!r:.40}"
        ) from None
    if not math.isfinite(label):
        raise DataError(f"{where}: label is {label}, not a finite number")
    return label, "number"


def plain_texts(values: Sequence[Any]) -> Sequence[str]:
    """The values, which are texts with something in each."""
    if set(map(type, values)) != {str} or not all(map(str.strip, values)):
        raise Odd
    try:
        "".join(values).encode()
    except UnicodeEncodeError:
        raise Odd from None
    return values


def plain_lists(values: Sequence[Any], at_least: int = 1) -> Sequence[list[str]]:
    """The values, which are lists of so many texts."""
    if set(map(type, values)) != {list} or min(map(len, values)) < at_least:
        raise Odd
    plain_texts(list(chain.from_iterable(values)))
    return values


def plain_labels(values: Sequence[Any]) -> tuple[list[float], str]:
    """`label_of` all values, which are of one kind."""
    kinds = set(map(type, values))
    if kinds == {str} and values[0].strip().lower() in NLI_CLASSES:
        names = [value.strip().lower() for value in values]
        if not NLI_CLASSES.keys() >= set(names):
            raise Odd
        return [NLI_CLASSES[name] for name in names], "class"
    if not (kinds <= {int, float} or kinds == {str}):
        raise Odd
    try:
        found = list(map(float, values))
    except (ValueError, OverflowError):
        raise Odd from None
    if not np.isfinite(found).all():
        raise Odd
    return found, "number"


def in_turn(*columns: Sequence[Any]) -> list[Any]:
    """The values of the first row, then those of the second, …"""
    return list(chain.from_iterable(zip(*columns, strict=True)))
