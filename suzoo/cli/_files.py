"""What the subcommands read and write."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path


def carried_folder(name: str) -> Path:
    """`training/` or `hub_scripts/`: package data in a wheel, beside the package in a checkout."""
    package = Path(__file__).resolve().parent.parent
    inside = package / name
    return inside if inside.is_dir() else package.parent / name


def iterate_rows(name: str, empty_lines: bool = False) -> Iterator[tuple[str, dict]]:
    """(place, row) of a file, a folder, a URL or a Hub dataset, as training reads them, or of stdin's lines for "-".

    Raises:
        DataError: at the first bad row.
    """
    from suzoo.data import DataError
    from suzoo.data._files import STDIN
    from suzoo.data._formats import file_rows
    from suzoo.data._sources import rows_of

    for where, row in file_rows(STDIN, empty_lines=True) if name == "-" else rows_of(name, empty_lines=empty_lines):
        if isinstance(row, DataError):
            raise row
        yield where, row


def iterate_texts(name: str, column: str | None) -> Iterator[str]:
    """Texts of a .txt file or stdin (a line each), or of one column of a table. Empty lines and cells are texts too:
    line n is always row n."""
    from suzoo.data._values import text_of
    from suzoo.reach import format_of

    if column is not None and (name == "-" or format_of(name) == ".txt"):
        raise ValueError("--column is for tables; a text file has one text per line")
    for where, row in iterate_rows(name, empty_lines=True):
        name = column or (next(iter(row)) if len(row) == 1 else "text")
        if name not in row:
            raise ValueError(f"{where} has no column {name!r}; choose with --column: {', '.join(row)}")
        yield text_of(where, row, name, name, may_be_empty=True)


def read_texts(name: str, column: str | None) -> list[str]:
    return list(iterate_texts(name, column))


def check_output(output: str, formats: tuple[str, ...], overwrite: bool) -> Path:
    """Fail before the work and not after it."""
    path = Path(output)
    if path.suffix not in formats:
        raise ValueError(f"{output}: the output's name must end in {' or '.join(formats)}")
    if path.exists() and not overwrite:
        raise ValueError(f"{output} exists; give --overwrite to replace it")
    if not path.parent.is_dir():
        raise ValueError(f"there is no folder {path.parent} to write {path.name} to")
    if not os.access(path.parent, os.W_OK):
        raise ValueError(f"no permission to write to {path.parent}")
    return path


@contextlib.contextmanager
def replacing(path: Path) -> Generator[Path]:
    """A temporary neighbour of `path` that takes its place when the block succeeds, and disappears when it does not."""
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def json_lines(rows: Iterable[dict]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
