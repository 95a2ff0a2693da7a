"""Which column of the data holds which of our fields: named by `columns`, or known by its name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from suzoo.data._errors import DataError
from suzoo.reach import nearest

Columns = Mapping[str, str] | Sequence[str] | None
# field -> the names by which it goes, as `canonical` writes them
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


def mapping_of(columns: Columns, fields: Sequence[str] | None) -> tuple[dict[str, str], bool]:
    """field -> column, checked; and whether csv and tsv files have a header."""
    mapping = parse_columns(columns)
    for field in mapping:
        if fields is not None and field not in fields:
            raise DataError(f"there is no field {field!r}{nearest(field, fields)}; there are {', '.join(fields)}")
    return mapping, not mapping or not all(column.isdecimal() for column in mapping.values())


def checked_columns(source: str | Path, row: dict, mapping: dict[str, str]) -> list[str]:
    """The columns of a first row, all that were named among them."""
    for field, column in mapping.items():
        if column not in row:
            hint = f"{nearest(column, row)}; it has {', '.join(row)}"
            raise DataError(f"{source} has no column {column!r} for {field}{hint}")
    return list(row)


def canonical(column: str) -> str:
    return column.strip().lower().replace("-", "_").replace(" ", "_")


def pick_columns(
    where: str, aliases: Mapping[str, Sequence[str]], available: list[str], mapping: dict[str, str]
) -> dict[str, str]:
    """field -> column for all fields of `aliases`: the one that is named, or the only one that bears a known name."""
    found = candidates(aliases, available, mapping)
    for field, columns in found.items():
        if not columns:
            raise DataError(missing(where, field, available, aliases[field]))
        if len(columns) > 1:
            choices = " or ".join(f"{field}={column}" for column in columns)
            raise DataError(f"{where}: several columns could be {field}: choose by --columns {choices}")
    return {field: columns[0] for field, columns in found.items()}


def pair_or_triple(where: str, available: list[str], mapping: dict[str, str]) -> dict[str, str]:
    """field -> column for sentence pairs or for triples, whichever the columns hold."""
    num_pair, num_triple = (
        sum(map(bool, candidates(layout, available, mapping).values())) for layout in (PAIR, TRIPLE)
    )
    if num_pair == len(PAIR) and num_triple == len(TRIPLE):
        raise DataError(f"{where} could hold pairs or triples: choose by --columns; it has {', '.join(available)}")
    return pick_columns(where, TRIPLE if num_triple > num_pair else PAIR, available, mapping)


def candidates(
    aliases: Mapping[str, Sequence[str]], available: list[str], mapping: dict[str, str]
) -> dict[str, list[str]]:
    free = [column for column in available if column not in mapping.values()]
    return {
        field: [mapping[field]] if field in mapping else [c for c in free if canonical(c) in names]
        for field, names in aliases.items()
    }


def missing(where: str, field: str, available: list[str], aliases: Sequence[str] = ()) -> str:
    guess = next((hint for name in (field, *aliases) if (hint := nearest(name, available))), "")
    return (
        f"{where} has no column for {field}{guess}; it has {', '.join(available)}: name one by "
        f"--columns {field}=<column> (by its number, from 0, if the file has no header)"
    )
