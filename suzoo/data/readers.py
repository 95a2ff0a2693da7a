"""Rows, sentence pairs and texts, from an embedded corpus, a file, a folder or a dataset of the Hub.

Every reader takes the same arguments:

- `source`: `embedded:<name>`, or a file (.jsonl, .json, .csv, .tsv, .parquet, .txt, each also with .gz), or a pattern
  of several (`data/*.jsonl`). Or a folder that holds `train.*`, `dev.*`, … or their shards. Or a URL of any of these
  (https://, hf://, s3:// and what else fsspec knows). Or a Hub dataset, `owner/name` or `owner/name:config`. Or a list
  of sources, read one after the other. Files of csv and tsv have a header; tsv has no quoting.
- `split`: train (the default), dev, test or any other name the source has. A single file is its own train split.
- `columns`: our field -> their column, as a dict or as `("text1=sentence1", …)`. Usual names are recognised without. If
  all columns are numbers, a csv or tsv file is taken to have no header, and they count its columns from 0.
- `skip_bad_rows`: leave bad rows out and log how many, instead of raising at the first.
- `max_rows`: read only that many good rows.

Whatever is wrong raises `DataError` with a sentence that names the file, the line and the field.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from suzoo.data._columns import Block, BlockColumns, Located, Odd
from suzoo.data._errors import DataError
from suzoo.data._fields import (
    PAIR,
    TRIPLE,
    Columns,
    candidates,
    canonical,
    checked_columns,
    mapping_of,
    missing,
    pair_or_triple,
)
from suzoo.data._sources import find
from suzoo.data._values import in_turn, label_of, plain_labels, plain_texts, text_of, texts_of, value_of
from suzoo.data.stored import FORMAT, TEXT, Layout, Rows, numbers, store

logger = logging.getLogger(__name__)
T = TypeVar("T")
Source = str | Path | Sequence[str | Path]
# What is smaller as text is read into memory at every start, a few seconds' work; larger data goes through the cache.
IN_MEMORY_BYTES = 1 << 23


@dataclass(frozen=True)
class Convert(Generic[T]):
    """What a reader makes of the rows of a source.

    Args:
        row: (place, row) -> what it becomes.
        columns: columns of a block -> those of the layout; raises `Odd`.
    """

    row: Callable[[str, dict], list[T]]
    columns: Callable[[BlockColumns], Sequence[Sequence[Any]]] | None = None


@dataclass(frozen=True)
class Kind(Generic[T]):
    """What a reader makes of rows.

    Args:
        name: of the kind, by which the cache tells it from others.
        fields: the names that `columns` may give a column to; None is any.
        plan: what messages call the source, the columns of a first row, field -> column: -> what converts a row.
        layout: of the rows in the cache; without one they stay in memory.
        group: (number of the source, converted row) of all rows -> the same of what is made of several.
    """

    name: str
    fields: Sequence[str] | None
    plan: Callable[[str, list[str], dict[str, str]], Convert[Any]]
    layout: Layout[T] | None = None
    group: Callable[[Iterator[tuple[int, Any]]], Iterator[tuple[int, T]]] | None = None


@dataclass(frozen=True, slots=True)
class Pair:
    """Two texts and how alike they are: a larger label is more alike."""

    text1: str
    text2: str
    label: float


PAIRS = Layout({"text1": "text", "text2": "text", "label": "number"}, Pair, ("text1", "text2"))


def read_rows(
    source: Source,
    *,
    split: str | None = None,
    columns: Columns = None,
    required: Sequence[str] = (),
    skip_bad_rows: bool = False,
    max_rows: int | None = None,
) -> Sequence[dict]:
    """Rows as dicts, with `columns` renamed to our fields and every other column as it is.

    Args:
        required: fields that every row must have, neither null nor empty.
    """

    def plan(where: str, available: list[str], mapping: dict[str, str]) -> Convert[dict]:
        for field in required:
            if field not in mapping and field not in available:
                raise DataError(missing(where, field, available))
        taken = {*mapping, *mapping.values()}

        def convert(where: str, row: dict) -> list[dict]:
            row = {
                **{field: value_of(where, row, field, column) for field, column in mapping.items()},
                **{column: value for column, value in row.items() if column not in taken},
            }
            for field in required:
                if value_of(where, row, field, field) == "":
                    raise DataError(f"{where}: {field} is empty")
            return [row]

        return Convert(convert)

    return read(source, split, columns, Kind("rows", None, plan), skip_bad_rows, max_rows)


def read_pairs(
    source: Source,
    *,
    split: str | None = None,
    columns: Columns = None,
    skip_bad_rows: bool = False,
    max_rows: int | None = None,
) -> Sequence[Pair]:
    """Sentence pairs with a label; what the rows hold is seen from their columns.

    - text1, text2, label with numbers: as they are.
    - text1, text2, label with classes of natural language inference: contradiction 0, neutral 1, entailment 2. Numbers
      beside premise and hypothesis are refused, because data sets disagree on their order; with `score=<column>` they
      are taken as they are, larger is more alike.
    - query, positive, negative: the pairs (query, positive) with 1 and (query, negative) with 0.
    """

    return read(source, split, columns, PAIR_ROWS, skip_bad_rows, max_rows)


def read_texts(
    source: Source,
    *,
    split: str | None = None,
    columns: Columns = None,
    skip_bad_rows: bool = False,
    max_rows: int | None = None,
) -> Sequence[str]:
    """Plain texts: the lines of a .txt file, or the column `text` (or the one that `columns` names for it).

    Rows of sentence pairs or triples give all their texts.
    """

    return read(source, split, columns, TEXT_ROWS, skip_bad_rows, max_rows)


def plan_pairs(where: str, available: list[str], mapping: dict[str, str]) -> Convert[Pair]:
    numbers_only = "score" in mapping
    if numbers_only:
        mapping["label"] = mapping.pop("score")
    fields = pair_or_triple(where, available, mapping)
    if "query" in fields:
        return Convert(partial(_pairs_of_triple, fields), partial(_columns_of_triples, fields))
    of_nli = canonical(fields["text1"]) == "premise" and not numbers_only
    kinds: list[str] = []  # what the first good label was: number or class

    def convert(at: str, row: dict) -> list[Pair]:
        text1, text2 = (text_of(at, row, field, fields[field]) for field in ("text1", "text2"))
        label, kind = label_of(at, value_of(at, row, "label", fields["label"]))
        if kinds and kind != kinds[0]:
            raise DataError(f"{at}: label is a {kind}, in the rows before it was a {kinds[0]}")
        if kind == "number" and of_nli:
            raise DataError(
                f"{at}: the labels of premise and hypothesis are numbers, whose order is not known: write "
                f"contradiction, neutral, entailment, or say score={fields['label']} if larger is more alike"
            )
        kinds[:] = [kind]
        return [Pair(text1, text2, label)]

    def by_columns(columns: BlockColumns) -> Sequence[Sequence[Any]]:
        text1, text2 = (plain_texts(columns[fields[field]]) for field in ("text1", "text2"))
        labels, kind = plain_labels(columns[fields["label"]])
        if (kinds and kind != kinds[0]) or (kind == "number" and of_nli):
            raise Odd
        kinds[:] = [kind]
        return text1, text2, labels

    return Convert(convert, by_columns)


def plan_texts(where: str, available: list[str], mapping: dict[str, str]) -> Convert[str]:
    column = mapping.get("text", "text")
    if column in available:
        return Convert(
            lambda at, row: [text_of(at, row, "text", column)], lambda columns: (plain_texts(columns[column]),)
        )
    fields = candidates({**PAIR, **TRIPLE}, available, {})
    for layout in (("text1", "text2"), tuple(TRIPLE)):
        if all(len(fields[field]) == 1 for field in layout):
            names = [fields[field][0] for field in layout]
            return Convert(
                lambda at, row, layout=layout, names=names: [
                    text for field, name in zip(layout, names, strict=True) for text in texts_of(at, row, field, name)
                ],
                lambda columns, names=names: (in_turn(*(plain_texts(columns[name]) for name in names)),),
            )
    raise DataError(missing(where, "text", available))


PAIR_ROWS = Kind("pairs", (*PAIR, "score", *TRIPLE), plan_pairs, PAIRS)
TEXT_ROWS = Kind("texts", ("text",), plan_texts, TEXT)


def check_labels(pairs: Sequence[Pair], where: str = "the data") -> None:
    """Raise DataError where there is no order to learn or to compare with: fewer than two pairs, or equal labels."""
    if len(pairs) < 2:
        raise DataError(f"{where} has {len(pairs)} sentence pair(s): ranking needs two or more")
    labels = numbers(pairs, "label")
    if (labels == labels[0]).all():
        raise DataError(
            f"all {len(pairs)} pairs of {where} have the label {pairs[0].label:g}: there is no order in them; "
            "is label the right column?"
        )


def read(
    source: Source,
    split: str | None,
    columns: Columns,
    kind: Kind[T],
    skip_bad_rows: bool,
    max_rows: int | None,
) -> Sequence[T]:
    """What all readers do: the columns are seen once for each source, then row by row is converted.

    `Rows`, or, where they would fill much memory and have a layout, `StoredRows` of the cache.
    """
    mapping, has_header = mapping_of(columns, kind.fields)
    if max_rows is not None and max_rows < 1:
        raise DataError(f"max_rows must be 1 or more, not {max_rows}")
    tally = Tally(skip_bad_rows, max_rows)
    found = [(one, find(one, split)) for one in ([source] if isinstance(source, str | Path) else source)]
    name = sources_name(source)
    sizes = [0] * len(found)

    stored = kind.layout
    layout = None if kind.group else stored

    def converted() -> Iterator[tuple[int, Any]]:
        for number, (one, where) in enumerate(found):
            if tally.num_good == max_rows:
                return
            blocks = where.blocks(has_header, False)
            for part in _converted(one, blocks, mapping, partial(kind.plan, name), tally, layout):
                yield number, part

    def made() -> Iterator[T]:
        rows = ((number, row) for number, part in converted() for row in part)
        for number, row in kind.group(rows) if kind.group else rows:
            sizes[number] += 1
            yield row

    def by_columns() -> Iterator[Sequence[Sequence[Any]]]:
        for number, columns in converted():
            sizes[number] += len(columns[0])
            yield columns

    small = sum(where.num_bytes for _, where in found) < IN_MEMORY_BYTES or (max_rows or math.inf) <= 10_000
    if stored is None or small:
        rows = made() if layout is None else (row for part in by_columns() for row in map(layout.make, *part))
        result = Rows(rows)
        result.sizes, faults = sizes, asdict(tally)
    else:
        content = [FORMAT, kind.name, list(stored.columns), mapping, skip_bad_rows, max_rows]
        content.append([where.content() for _, where in found])
        key = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]
        about = {"sources": name, "sizes": sizes}
        parts = by_columns if layout else lambda: map(stored.columns_of, ([row] for row in made()))
        result = store(f"rows/{key}.arrow", stored, parts, lambda: about | {"faults": asdict(tally)})
        faults = result.about["faults"]
    num_bad, first = faults["num_bad"], faults["first"]
    if num_bad:
        num_rows = num_bad + faults["num_good"]
        logger.warning("%s: skipped %d bad of %d rows; the first: %s", name, num_bad, num_rows, first)
    if not result:
        raise DataError(f"{name} has no {f'good rows; the first fault: {first}' if first else 'rows'}")
    return result


def first_plan(
    source: str, rows: Iterator[Located], mapping: dict[str, str], kind: Kind[T], tally: Tally
) -> Convert[Any]:
    """What converts the rows of a source, told from its first ones as `read` does it."""
    found: list[Convert[Any]] = []

    def plan(available: list[str], mapping: dict[str, str]) -> Convert[Any]:
        found.append(kind.plan(source, available, mapping))
        return found[0]

    for _ in _converted(source, [Block(lambda: rows)], mapping, plan, tally, None):
        return found[0]
    raise DataError(f"{source} has no {f'good rows; the first fault: {tally.first}' if tally.first else 'rows'}")


def sources_name(source: Source) -> str:
    """What messages call one source or several."""
    return str(source) if isinstance(source, str | Path) else ", ".join(map(str, source))


@dataclass
class Tally:
    """Rows so far, over all sources."""

    skip_bad_rows: bool
    max_rows: int | None
    num_good: int = 0
    num_bad: int = 0
    first: str | None = None

    def fault(self, error: DataError) -> None:
        if not self.skip_bad_rows:
            raise error
        self.num_bad += 1
        self.first = self.first or str(error)


def _converted(
    source: str | Path,
    blocks: Iterable[Block],
    mapping: dict[str, str],
    plan: Callable[[list[str], dict[str, str]], Convert[T]],
    tally: Tally,
    layout: Layout[T] | None,
) -> Iterator[Sequence[Any]]:
    """What the good rows of one source become: columns of a layout, or without one a list of rows. A block at which
    nothing is odd goes by as a whole, the rows of others one by one."""
    convert: Convert[T] | None = None
    unplanned = 0
    for block in blocks:
        if layout and convert and (columns := _as_a_whole(block, convert, tally)):
            yield columns
            if tally.num_good == tally.max_rows:
                return
            continue
        for where, row in block.rows():
            try:
                if isinstance(row, DataError):
                    raise row
                if convert is None:
                    try:
                        convert = plan(checked_columns(source, row, mapping), dict(mapping))
                    except DataError:
                        # one row may lack a key, a hundred say what the source is
                        unplanned += 1
                        if unplanned == 100:
                            tally.skip_bad_rows = False
                        raise
                rows = convert.row(where, row)
            except DataError as fault:
                tally.fault(fault)
                continue
            tally.num_good += 1
            yield layout.columns_of(rows) if layout else rows
            if tally.num_good == tally.max_rows:
                return


def _as_a_whole(block: Block, convert: Convert[Any], tally: Tally) -> Sequence[Sequence[Any]] | None:
    """Columns of a layout, if all rows of the block are wanted and nothing is odd about them."""
    if convert.columns is None:
        return None
    try:
        columns = block.columns()
        num_good = tally.num_good + columns.num_rows
        if num_good > (tally.max_rows or math.inf):
            return None
        converted = convert.columns(columns)
    except Odd:
        return None
    tally.num_good = num_good
    return converted


def _pairs_of_triple(fields: dict[str, str], where: str, row: dict) -> list[Pair]:
    query = text_of(where, row, "query", fields["query"])
    pairs = []
    for field, label in (("positive", 1.0), ("negative", 0.0)):
        pairs += [Pair(query, text, label) for text in texts_of(where, row, field, fields[field])]
    return pairs


def _columns_of_triples(fields: dict[str, str], columns: BlockColumns) -> Sequence[Sequence[Any]]:
    query, positive, negative = (plain_texts(columns[fields[field]]) for field in ("query", "positive", "negative"))
    return in_turn(query, query), in_turn(positive, negative), [1.0, 0.0] * len(query)
