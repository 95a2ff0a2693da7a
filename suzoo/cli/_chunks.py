"""Commands on inputs of any size: read, compute and write in chunks, in order, and go on after a kill.

The output grows under a hidden name. Behind every chunk stands beside it how far it is, so that `--resume` computes at
most one chunk again, and what comes out is what an uninterrupted run writes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
# options that do not change what is written, or are what it is written to
FREE = ("command", "function", "output", "overwrite", "resume", "device", "trust_remote_code", "token")


class Growing:
    """A file that is written chunk by chunk and takes its name when it is whole.

    Args:
        path: its name.
        header: what it begins with.
        begun_with: plain data that decides what is written; a file that began otherwise is not continued.
        resume: go on where a killed run stopped, if one did; else begin anew.

    Raises:
        ValueError: what is to be continued began with other options or input; another process writes it.
    """

    def __init__(self, path: Path, header: bytes, begun_with: dict[str, Any], resume: bool):
        from filelock import FileLock, Timeout

        self.path = path
        self._partial, self._state, lock = (
            path.with_name(f".{path.name}.{kind}") for kind in ("partial", "progress", "lock")
        )
        self._lock = FileLock(lock)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(f"another process writes {path}: wait for it, or choose another --output") from None
        self.rows, self._size, self.totals = 0, 0, Counter()
        self._begun_with = json.loads(json.dumps(begun_with))
        if resume and self._state.exists() and self._partial.exists():
            self._go_on()
        self._file = self._partial.open("r+b" if self._size else "wb")
        self._file.truncate(self._size)
        self._file.seek(self._size)
        if not self._size:
            self._file.write(header)

    def _go_on(self) -> None:
        state = json.loads(self._state.read_text(encoding="utf-8"))
        for name, value in self._begun_with.items():
            if state["begun_with"].get(name) != value:
                self._lock.release()
                raise ValueError(
                    f"the part of {self.path} that is there began with {name} {state['begun_with'].get(name)}, not "
                    f"{value}: go on as it began, or leave out --resume"
                )
        self.rows, self._size = state["rows"], state["size"]
        self.totals = Counter(state["totals"])

    def add(self, content: bytes, num_rows: int, totals: dict[str, float]) -> None:
        """One chunk: on the disk before it is counted."""
        self._file.write(content)
        self._file.flush()
        os.fsync(self._file.fileno())
        self.rows += num_rows
        self.totals.update(totals)
        state = {"rows": self.rows, "size": self._file.tell(), "totals": self.totals, "begun_with": self._begun_with}
        partial = self._state.with_suffix(".new")
        partial.write_text(json.dumps(state), encoding="utf-8")
        os.replace(partial, self._state)

    def finish(self, complete: Callable[[Path, int], None]) -> None:
        """Give the file its name, after `complete(path, number of rows)` has made of the chunks what the format is."""
        self._file.close()
        complete(self._partial, self.rows)
        os.replace(self._partial, self.path)
        self.remove()

    def close(self) -> None:
        """Stop and leave what there is, for `--resume`."""
        self._file.close()
        self._lock.release()

    def remove(self) -> None:
        self.close()
        for path in (self._partial, self._state):
            path.unlink(missing_ok=True)
        Path(self._lock.lock_file).unlink(missing_ok=True)


def run_in_chunks(
    options: argparse.Namespace,
    path: Path | None,
    rows: Callable[[], Iterable[T]],
    compute: Callable[[list[T]], tuple[bytes, dict[str, float]]],
    *,
    chunk: int,
    batch: int,
    weight: Callable[[T], int] = lambda row: 1,
    header: bytes = b"",
    complete: Callable[[Path, int], None] = lambda path, num_rows: None,
) -> tuple[int, Counter]:
    """Write `compute(chunk of rows)` for all rows, to `path` or stdout; returns the number of rows and the totals.

    A file is read once before the work, so that a bad row near its end does not cost hours; stdin can't be.

    Args:
        options: of the command line; `input` names what `rows` reads, None is one row, which has no bar here.
        rows: a new iterator at every call.
        compute: rows -> bytes to write, and numbers to add up.
        chunk: of rows, or of their `weight` together.
        batch: what is computed at once, as `chunk`; a short file is cut into ten chunks of whole batches, so that the
            bar moves.
        header: what the file begins with.
        complete: see `Growing.finish`.
    """
    from tqdm import tqdm

    source = getattr(options, "input", None)
    is_stdin = source == "-"
    if options.resume and (path is None or is_stdin):
        raise ValueError("--resume is for an input file and an --output: stdin and stdout can't be gone back to")
    num_rows = whole = 0
    for row in () if is_stdin else rows():
        num_rows += 1
        whole += weight(row)
    if not is_stdin:
        chunk = min(chunk, max(1, math.ceil(whole / 10 / batch)) * batch)
    output = Growing(path, header, _begun_with(options, source), options.resume) if path else None
    done, totals = (output.rows, output.totals) if output else (0, Counter())
    try:
        with tqdm(
            total=None if is_stdin else num_rows,
            initial=done,
            desc=options.command,
            unit=" rows",
            disable=source is None or not sys.stderr.isatty(),
        ) as bar:
            for part in _chunks(islice(rows(), done, None), chunk, weight):
                content, numbers = compute(part)
                if output:
                    output.add(content, len(part), numbers)
                else:
                    totals.update(numbers)
                    sys.stdout.write(content.decode())
                    sys.stdout.flush()
                done += len(part)
                bar.update(len(part))
    except OSError as error:
        if output is None or not output.rows:
            raise
        output.close()
        raise OSError(f"{path}: {error}; {output.rows} rows are kept: make room, then go on with --resume") from error
    except ValueError:  # a mistake, which the same command would repeat
        if output:
            output.remove()
        raise
    if output:
        output.finish(complete)
    return done, totals


def add_resume_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--resume", action="store_true", help="go on where a killed run of the same command stopped")


def _begun_with(options: argparse.Namespace, source: str | None) -> dict[str, Any]:
    found = {name: value for name, value in sorted(vars(options).items()) if name not in FREE}
    with contextlib.suppress(OSError, TypeError):  # no file of this machine
        stat = Path(source).stat()  # ty: ignore[invalid-argument-type]
        found |= {"an input of bytes": stat.st_size, "an input from the time": stat.st_mtime_ns}
    return found


def _chunks(rows: Iterable[T], size: int, weight: Callable[[T], int]) -> Iterator[list[T]]:
    part, total = [], 0
    for row in rows:
        part.append(row)
        total += weight(row)
        if total >= size:
            yield part
            part, total = [], 0
    if part:
        yield part
