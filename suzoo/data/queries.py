"""Queries with texts that belong to them and texts that do not: to be learnt by contrast, or to score a ranking."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from suzoo.data._errors import DataError
from suzoo.data._fields import PAIR, TRIPLE, Columns, pair_or_triple, pick_columns
from suzoo.data._values import label_of, text_of, texts_of, value_of
from suzoo.data.readers import Convert, Kind, Source, read, sources_name
from suzoo.data.stored import Layout

logger = logging.getLogger(__name__)
NUMBERED = re.compile(r"(negative|neg)[_-]?\d+")  # negative_1, negative_2, … of sentence-transformers


@dataclass(frozen=True, slots=True)
class Ranked:
    """A query with texts that belong to it and texts that do not, in the order of the file and without repetition."""

    query: str
    positives: tuple[str, ...]
    negatives: tuple[str, ...]


RANKED = Layout(
    {"query": "text", "positives": "texts", "negatives": "texts"},
    lambda query, positives, negatives: Ranked(query, tuple(positives), tuple(negatives)),
    ("query", "positives"),
)


class _Found(NamedTuple):
    """What one row says of a query."""

    query: str
    positives: Sequence[str]
    negatives: Sequence[str]


def read_ranked(
    source: Source,
    *,
    split: str | None = None,
    columns: Columns = None,
    skip_bad_rows: bool = False,
    max_rows: int | None = None,
) -> Sequence[Ranked]:
    """Queries with their positives and negatives, rows of the same query put together.

    Rows are (query, positive, negative), the latter two a text or a list of texts, or (text1, text2, label) with label
    0 or 1. A text that is a positive of a query anywhere is not among its negatives. Queries without a positive cannot
    be scored: they are left out, and their number is logged.
    """
    kind = Kind("ranked", (*PAIR, *TRIPLE), _plan_ranked, RANKED, _grouped)
    found = read(source, split, columns, kind, skip_bad_rows, max_rows)
    ranked = [row for row in found if row.positives]
    if not ranked:
        raise DataError(f"{sources_name(source)} has no query with a positive text")
    if len(ranked) == len(found):
        return found
    left_out = len(found) - len(ranked)
    logger.warning("%s: left out %d of %d queries, which have no positive", sources_name(source), left_out, len(found))
    return ranked


def read_queries(
    source: Source,
    *,
    split: str | None = None,
    columns: Columns = None,
    skip_bad_rows: bool = False,
    max_rows: int | None = None,
) -> Sequence[Ranked]:
    """Queries with their positives and, where there are some, hard negatives; rows of one query are put together.

    Rows are (query, positive) with or without negatives, both a text or a list of texts, the negatives also in several
    columns (negative_1, negative_2, …); or two texts without a label, which belong together. A text that is a positive
    of a query anywhere is not among its negatives.
    """
    kind = Kind("queries", ("query", "positive", "negative", "text1", "text2"), _plan_queries, RANKED, _grouped)
    return read(source, split, columns, kind, skip_bad_rows, max_rows)


def _plan_ranked(where: str, available: list[str], mapping: dict[str, str]) -> Convert[_Found]:
    fields = pair_or_triple(where, available, mapping)

    def of_triple(at: str, row: dict) -> list[_Found]:
        query = text_of(at, row, "query", fields["query"])
        texts = [texts_of(at, row, field, fields[field]) for field in ("positive", "negative")]
        return [_Found(query, *texts)]

    def of_pair(at: str, row: dict) -> list[_Found]:
        query, text = (text_of(at, row, field, fields[field]) for field in ("text1", "text2"))
        label, kind = label_of(at, value_of(at, row, "label", fields["label"]))
        if kind != "number" or label not in (0.0, 1.0):
            raise DataError(f"{at}: label must be 0 or 1 to rank texts, not {row[fields['label']]!r}")
        return [_Found(query, [text], ()) if label else _Found(query, (), [text])]

    return Convert(of_triple if "query" in fields else of_pair)


def _plan_queries(where: str, available: list[str], mapping: dict[str, str]) -> Convert[_Found]:
    names = ("query", "positive")
    try:
        fields = pick_columns(where, {name: TRIPLE[name] for name in names}, available, mapping)
    except DataError:
        if {*names, "negative"} & mapping.keys():
            raise
        texts = pick_columns(where, {name: PAIR[name] for name in ("text1", "text2")}, available, mapping)
        fields = {"query": texts["text1"], "positive": texts["text2"]}
    taken = set(fields.values())
    free = {column.strip().lower(): column for column in available if column not in taken}
    named = [mapping["negative"]] if "negative" in mapping else [free[n] for n in TRIPLE["negative"] if n in free][:1]
    negatives = named + [column for name, column in free.items() if NUMBERED.fullmatch(name)]

    def convert(at: str, row: dict) -> list[_Found]:
        query = text_of(at, row, "query", fields["query"])
        positives = texts_of(at, row, "positive", fields["positive"])
        found = [text for column in negatives if row.get(column) for text in texts_of(at, row, "negative", column)]
        return [_Found(query, positives, found)]

    return Convert(convert)


def _grouped(rows: Iterator[tuple[int, _Found]]) -> Iterator[tuple[int, Ranked]]:
    """One `Ranked` of all rows of a query; it counts as one of the source that has its first."""
    queries: dict[str, tuple[int, dict[str, None], dict[str, None]]] = {}  # dicts as sets that keep the order
    for number, row in rows:
        _, positives, negatives = queries.setdefault(row.query, (number, {}, {}))
        positives.update(dict.fromkeys(row.positives))
        negatives.update(dict.fromkeys(row.negatives))
    for query, (number, positives, negatives) in queries.items():
        yield number, Ranked(query, tuple(positives), tuple(text for text in negatives if text not in positives))
