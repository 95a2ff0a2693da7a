"""Queries with texts that belong to them: what contrastive training learns from, where nobody graded pairs."""

from __future__ import annotations

import logging
import re
from typing import NamedTuple

from suzoo.data._errors import DataError
from suzoo.data.readers import (
    PAIR,
    TRIPLE,
    Columns,
    Convert,
    Ranked,
    Source,
    _texts,
    pick_columns,
    read,
    sources_name,
    text_of,
)

logger = logging.getLogger(__name__)
NUMBERED = re.compile(r"(negative|neg)[_-]?\d+")  # negative_1, negative_2, … of sentence-transformers
FIELDS = ("query", "positive", "negative", "text1", "text2")


class _Found(NamedTuple):
    query: str
    positives: list[str]
    negatives: list[str]


def read_queries(
    source: Source,
    *,
    split: str | None = None,
    columns: Columns = None,
    skip_bad_rows: bool = False,
    max_rows: int | None = None,
) -> list[Ranked]:
    """Queries with their positives and, where there are some, hard negatives; rows of one query are put together.

    Rows are (query, positive) with or without negatives, both a text or a list of texts, the negatives also in several
    columns (negative_1, negative_2, …); or two texts without a label, which belong together. A text that is a positive
    of a query anywhere is not among its negatives.
    """

    def plan(available: list[str], mapping: dict[str, str]) -> Convert[_Found]:
        where = sources_name(source)
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
        named = (
            [mapping["negative"]] if "negative" in mapping else [free[n] for n in TRIPLE["negative"] if n in free][:1]
        )
        negatives = named + [column for name, column in free.items() if NUMBERED.fullmatch(name)]

        def convert(at: str, row: dict) -> list[_Found]:
            query = text_of(at, row, "query", fields["query"])
            positives = _texts(at, row, "positive", fields["positive"])
            found = [text for column in negatives if row.get(column) for text in _texts(at, row, "negative", column)]
            return [_Found(query, positives, found)]

        return convert

    queries: dict[str, tuple[dict[str, None], dict[str, None]]] = {}  # dicts as sets that keep the order
    for row in read(source, split, columns, FIELDS, plan, skip_bad_rows, max_rows):
        positives, negatives = queries.setdefault(row.query, ({}, {}))
        positives.update(dict.fromkeys(row.positives))
        negatives.update(dict.fromkeys(row.negatives))
    return [
        Ranked(query, tuple(positives), tuple(text for text in negatives if text not in positives))
        for query, (positives, negatives) in queries.items()
    ]
