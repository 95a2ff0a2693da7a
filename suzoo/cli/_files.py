"""What the subcommands read and write."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import sys
import zlib
from collections.abc import Generator
from pathlib import Path


def read_lines(name: str) -> list[str]:
    """One text per line of a file, or of stdin for "-". Empty lines are texts too: line n is always row n."""
    try:
        content = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        text = (gzip.decompress(content) if name.endswith(".gz") else content).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ValueError(f"{name} line {line} is not UTF-8: convert it, for example with iconv") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{name} is no whole gzip file ({error}): copy it again") from error
    lines = text.replace("\r\n", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def read_table(name: str) -> list[dict]:
    from suzoo.data import read_rows

    rows = read_rows(name)
    if not rows:
        raise ValueError(f"{name} has no rows")
    return rows


def read_texts(name: str, column: str | None) -> list[str]:
    """Texts of a .txt file or stdin (a line each), or of one column of a table."""
    if name == "-" or name.endswith((".txt", ".txt.gz")):
        if column is not None:
            raise ValueError("--column is for tables; a text file has one text per line")
        return read_lines(name)
    rows = read_table(name)
    columns = list(rows[0])
    if column is None:
        column = columns[0] if len(columns) == 1 else "text"
    for number, row in enumerate(rows, start=1):
        if column not in row:
            raise ValueError(f"{name} row {number} has no column {column!r}; choose with --column: {', '.join(row)}")
        if not isinstance(row[column], str):
            raise ValueError(f"{name} row {number}: {column!r} is {type(row[column]).__name__}, not text")
    return [row[column] for row in rows]


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


def write_jsonl(path: Path, rows: list[dict]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
