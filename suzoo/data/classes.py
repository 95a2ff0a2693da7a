"""Reader of texts and the classes they belong to. Arguments as in `suzoo.data.readers`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from suzoo.data._columns import BlockColumns, Odd
from suzoo.data._errors import DataError
from suzoo.data._fields import Columns, pick_columns
from suzoo.data._values import plain_texts, text_of, value_of
from suzoo.data.readers import Convert, Kind, Source, read
from suzoo.data.stored import Layout

# field -> the names by which it goes
CLASSES = {
    "text": ("text", "sentence", "content", "utterance", "query"),
    "label": ("label", "labels", "class", "category", "intent"),
}


@dataclass(frozen=True, slots=True)
class Classified:
    """A text and the names of its classes: one of several that exclude each other, or any number, also none."""

    text: str
    labels: tuple[str, ...]


TEXTS_CLASSES = Layout(
    {"text": "text", "labels": "texts"}, lambda text, labels: Classified(text, tuple(labels)), ("text",)
)


def read_classes(
    source: Source,
    *,
    split: str | None = None,
    columns: Columns = None,
    skip_bad_rows: bool = False,
    max_rows: int | None = None,
) -> Sequence[Classified]:
    """Texts with their classes: a name, a whole number (which becomes its name), or a list of either."""
    return read(source, split, columns, CLASS_ROWS, skip_bad_rows, max_rows)


def _plan(where: str, available: list[str], mapping: dict[str, str]) -> Convert[Classified]:
    fields = pick_columns(where, CLASSES, available, mapping)

    def convert(at: str, row: dict) -> list[Classified]:
        value = value_of(at, row, "label", fields["label"])
        names = [_name(at, item) for item in (value if isinstance(value, list) else [value])]
        if len(set(names)) < len(names):
            raise DataError(f"{at}: label names a class twice: {', '.join(names)}")
        return [Classified(text_of(at, row, "text", fields["text"]), tuple(names))]

    def by_columns(columns: BlockColumns) -> Sequence[Sequence[Any]]:
        labels = columns[fields["label"]]
        if not set(map(type, labels)) <= {str, int}:
            raise Odd
        names = plain_texts(list(map(str, labels)))
        return plain_texts(columns[fields["text"]]), [(name.strip(),) for name in names]

    return Convert(convert, by_columns)


CLASS_ROWS = Kind("classes", list(CLASSES), _plan, TEXTS_CLASSES)


def class_names(rows: Sequence[Classified], where: str = "the data") -> list[str]:
    """All classes of the rows, sorted; by value where all are numbers.

    Raises:
        DataError: fewer than two classes.
    """
    names = {name for row in rows for name in row.labels}
    if len(names) < 2:
        raise DataError(
            f"{where} has {len(names) or 'no'} class{', ' if names else 'es'}{', '.join(names)}: "
            "there is nothing to tell apart; is label the right column?"
        )
    return sorted(names, key=int if all(name.isdecimal() and len(name) < 20 for name in names) else None)


def class_numbers(rows: Sequence[Classified], names: Sequence[str], where: str = "the data") -> list[list[int]]:
    """The places of each row's classes in `names`, those of the training data.

    Raises:
        DataError: a class is not among them.
    """
    number = {name: i for i, name in enumerate(names)}
    unknown = sorted({name for row in rows for name in row.labels} - number.keys())
    if unknown:
        raise DataError(f"{where} has classes that the training data lacks: {', '.join(unknown)}")
    return [[number[name] for name in row.labels] for row in rows]


def _name(where: str, value: object) -> str:
    if not isinstance(value, str | int) or not str(value).strip():
        raise DataError(f"{where}: label is neither the name of a class nor a whole number, but {value!r:.40}")
    return str(value).strip()
