"""`suzoo examples CORPUS FILE`: rows of an embedded corpus as a file, to try a guide before one has data."""

from __future__ import annotations

import argparse

from suzoo.cli._files import check_output, json_lines, replacing
from suzoo.cli._models import positive

FORMATS = (".jsonl", ".tsv", ".txt")


def examples(options: argparse.Namespace) -> int:
    from suzoo.data.embedded import load, texts_of

    path = check_output(options.output, FORMATS, overwrite=True)
    rows = load(options.corpus, options.split)[: options.rows]
    if options.columns:
        rows = _renamed(rows, options.columns)
    tabular = all(not isinstance(value, list) for value in rows[0].values())
    if path.suffix == ".tsv" and not tabular:
        raise ValueError(f"the rows of {options.corpus} are lists, which no .tsv holds: name a .jsonl")
    if path.suffix == ".jsonl":
        content = json_lines(rows)
    elif path.suffix == ".tsv":
        lines = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
        content = "".join("\t".join(line) + "\n" for line in lines).encode()
    else:
        content = "".join(f"{next(texts_of(row))}\n" for row in rows).encode()
    if path.exists() and not options.overwrite and path.read_bytes() != content:
        raise ValueError(f"{path} exists and holds other rows; give --overwrite to replace it")
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    print(f"wrote {len(rows)} rows of {options.corpus} to {path}")
    return 0


def _renamed(rows: list[dict], columns: list[str]) -> list[dict]:
    """The named columns alone, under new names: `query=target` is the column target, called query."""
    names = {new: old or new for new, _, old in (pair.partition("=") for pair in columns)}
    if unknown := [name for name in names.values() if name not in rows[0]]:
        raise ValueError(f"--columns: there is no column {unknown[0]}; there are {', '.join(rows[0])}")
    return [{name: row[old] for name, old in names.items()} for row in rows]


def add_commands(command) -> None:
    sub = command("examples", examples, "Write rows of an embedded, synthetic corpus to a file, to try things with.")
    sub.add_argument("corpus", metavar="CORPUS", help="pairs_zh, titles_en, …; a wrong name lists them")
    sub.add_argument("output", metavar="FILE", help=".jsonl, .tsv, or .txt with the first text of each row")
    sub.add_argument("--split", default="train", choices=["train", "dev"], help="(default: train)")
    sub.add_argument("--rows", type=positive, metavar="N", help="the first N (default: all)")
    sub.add_argument(
        "--columns", nargs="+", metavar="NEW=NAME", help="these columns alone, renamed, as query=target positive=source"
    )
    sub.add_argument("--overwrite", action="store_true", help="replace FILE")
