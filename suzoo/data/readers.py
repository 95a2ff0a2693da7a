"""Rows, sentence pairs and texts, from an embedded corpus, a file, a folder or a dataset of the Hub.

Every reader takes the same arguments:

- `source`: `embedded:<name>`; a file (.jsonl, .json, .csv, .tsv, .parquet, .txt, each also with .gz) or a pattern of
  several (`data/*.jsonl`); a folder that holds `train.*`, `dev.*`, … or their shards; a URL of any of these (https://,
  hf://, s3:// and what else fsspec knows); a Hub dataset, `owner/name` or `owner/name:config`; or a list of sources,
  read one after the other. csv and tsv have a header; tsv has no quoting.
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from suzoo.data._errors import DataError, nearest
from suzoo.data._formats import Located
from suzoo.data._sources import NLI_CLASSES, find
from suzoo.data.stored import FORMAT, TEXT, Layout, Rows, numbers, store

logger = logging.getLogger(__name__)
T = TypeVar("T")
Source = str | Path | Sequence[str | Path]
Columns = Mapping[str, str] | Sequence[str] | None
Convert = Callable[[str, dict], list[T]]
# What is smaller as text is read into memory at every start, a few seconds' work; larger data goes through the cache.
IN_MEMORY_BYTES = 1 << 23


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


PAIRS = Layout[Pair](
    {"text1": "text", "text2": "text", "label": "number"},
    lambda pair: (pair.text1, pair.text2, pair.label),
    Pair,
    lambda pair: (pair.text1, pair.text2),
)


# field -> the names by which it goes, as `_canonical` writes them
PAIR = {
    "text1": ("text1", "text_1", "text_a", "sentence1", "sentence_1", "sentence_a", "sent1", "premise", "question1",
              "query"),
    "text2": ("text2", "text_2", "text_b", "sentence2", "sentence_2", "sentence_b", "sent2", "hypothesis", "question2",
              "document", "passage"),
    "label": ("label", "score", "similarity", "similarity_score", "relatedness", "relatedness_score", "entailment",
              "entailment_judgment", "gold_label", "is_duplicate"),
}  # fmt: skip
TRIPLE = {
    "query": ("query", "anchor", "sent0"),
    "positive": ("positive", "positives", "pos", "sent1"),
    "negative": ("negative", "negatives", "neg", "hard_neg"),
}


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
                raise DataError(_missing(where, field, available))
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

        return convert

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
        return lambda at, row: _pairs_of_triple(at, row, fields)
    of_nli = _canonical(fields["text1"]) == "premise" and not numbers_only
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
        kinds.append(kind)
        return [Pair(text1, text2, label)]

    return convert


def plan_texts(where: str, available: list[str], mapping: dict[str, str]) -> Convert[str]:
    column = mapping.get("text", "text")
    if column in available:
        return lambda at, row: [text_of(at, row, "text", column)]
    fields = _candidates({**PAIR, **TRIPLE}, available, {})
    for layout in (("text1", "text2"), tuple(TRIPLE)):
        if all(len(fields[field]) == 1 for field in layout):
            return lambda at, row, layout=layout: [
                text for field in layout for text in texts_of(at, row, field, fields[field][0])
            ]
    raise DataError(_missing(where, "text", available))


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


def parse_columns(columns: Columns) -> dict[str, str]:
    """`("text1=sentence1", …)` as a dict; a dict stays what it is."""
    if columns is None:
        return {}
    if isinstance(columns, str):
        raise DataError(f"columns is a list of field=column, not the string {columns!r}")
    if isinstance(columns, Mapping):
        return dict(columns)
    mapping = {}
    for item in columns:
        field, equals, column = item.partition("=")
        if not (field and equals and column):
            raise DataError(f"--columns takes field=column, as in text1=sentence1, not {item!r}")
        if field in mapping:
            raise DataError(f"--columns names the field {field!r} twice")
        mapping[field] = column
    return mapping


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

    def converted() -> Iterator[tuple[int, Any]]:
        for number, (one, where) in enumerate(found):
            if tally.num_good == max_rows:
                return
            for rows in _converted(one, where.rows(has_header, False), mapping, partial(kind.plan, name), tally):
                for row in rows:
                    yield number, row

    def made() -> Iterator[T]:
        for number, row in kind.group(converted()) if kind.group else converted():
            sizes[number] += 1
            yield row

    small = sum(where.num_bytes for _, where in found) < IN_MEMORY_BYTES or (max_rows or math.inf) <= 10_000
    if kind.layout is None or small:
        result = Rows(made())
        result.sizes, faults = sizes, asdict(tally)
    else:
        content = [FORMAT, kind.name, list(kind.layout.columns), mapping, skip_bad_rows, max_rows]
        content.append([where.content() for _, where in found])
        key = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]
        about = {"sources": name, "sizes": sizes}
        result = store(f"rows/{key}.arrow", kind.layout, made, lambda: about | {"faults": asdict(tally)})
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

    for _ in _converted(source, rows, mapping, plan, tally):
        return found[0]
    raise DataError(f"{source} has no {f'good rows; the first fault: {tally.first}' if tally.first else 'rows'}")


def mapping_of(columns: Columns, fields: Sequence[str] | None) -> tuple[dict[str, str], bool]:
    """field -> column, checked; and whether csv and tsv files have a header."""
    mapping = parse_columns(columns)
    for field in mapping:
        if fields is not None and field not in fields:
            raise DataError(f"there is no field {field!r}{nearest(field, fields)}; there are {', '.join(fields)}")
    return mapping, not mapping or not all(column.isdecimal() for column in mapping.values())


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
    rows: Iterator[Located],
    mapping: dict[str, str],
    plan: Callable[[list[str], dict[str, str]], Convert[T]],
    tally: Tally,
) -> Iterator[list[T]]:
    """What each good row of one source becomes."""
    convert: Convert[T] | None = None
    unplanned = 0
    for where, row in rows:
        try:
            if isinstance(row, DataError):
                raise row
            if convert is None:
                try:
                    convert = plan(_checked_columns(source, row, mapping), dict(mapping))
                except DataError:
                    # one row may lack a key, a hundred say what the source is
                    unplanned += 1
                    if unplanned == 100:
                        tally.skip_bad_rows = False
                    raise
            converted = convert(where, row)
        except DataError as fault:
            tally.fault(fault)
            continue
        tally.num_good += 1
        yield converted
        if tally.num_good == tally.max_rows:
            return


def _checked_columns(source: str | Path, row: dict, mapping: dict[str, str]) -> list[str]:
    """The columns of a first row, all that were named among them."""
    for field, column in mapping.items():
        if column not in row:
            hint = f"{nearest(column, row)}; it has {', '.join(row)}"
            raise DataError(f"{source} has no column {column!r} for {field}{hint}")
    return list(row)


def _canonical(column: str) -> str:
    return column.strip().lower().replace("-", "_").replace(" ", "_")


def pick_columns(
    where: str, aliases: Mapping[str, Sequence[str]], available: list[str], mapping: dict[str, str]
) -> dict[str, str]:
    """field -> column for all fields of `aliases`: the one that is named, or the only one that bears a known name."""
    found = _candidates(aliases, available, mapping)
    for field, columns in found.items():
        if not columns:
            raise DataError(_missing(where, field, available, aliases[field]))
        if len(columns) > 1:
            choices = " or ".join(f"{field}={column}" for column in columns)
            raise DataError(f"{where}: several columns could be {field}: choose by --columns {choices}")
    return {field: columns[0] for field, columns in found.items()}


def pair_or_triple(where: str, available: list[str], mapping: dict[str, str]) -> dict[str, str]:
    """field -> column for sentence pairs or for triples, whichever the columns hold."""
    num_pair, num_triple = (
        sum(map(bool, _candidates(layout, available, mapping).values())) for layout in (PAIR, TRIPLE)
    )
    if num_pair == len(PAIR) and num_triple == len(TRIPLE):
        raise DataError(f"{where} could hold pairs or triples: choose by --columns; it has {', '.join(available)}")
    return pick_columns(where, TRIPLE if num_triple > num_pair else PAIR, available, mapping)


def _candidates(
    aliases: Mapping[str, Sequence[str]], available: list[str], mapping: dict[str, str]
) -> dict[str, list[str]]:
    free = [column for column in available if column not in mapping.values()]
    return {
        field: [mapping[field]] if field in mapping else [c for c in free if _canonical(c) in names]
        for field, names in aliases.items()
    }


def _missing(where: str, field: str, available: list[str], aliases: Sequence[str] = ()) -> str:
    guess = next((hint for name in (field, *aliases) if (hint := nearest(name, available))), "")
    return (
        f"{where} has no column for {field}{guess}; it has {', '.join(available)}: name one by "
        f"--columns {field}=<column> (by its number, from 0, if the file has no header)"
    )


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


def _pairs_of_triple(where: str, row: dict, fields: dict[str, str]) -> list[Pair]:
    query = text_of(where, row, "query", fields["query"])
    pairs = []
    for field, label in (("positive", 1.0), ("negative", 0.0)):
        pairs += [Pair(query, text, label) for text in texts_of(where, row, field, fields[field])]
    return pairs
