"""Files as bytes and lines: gzip or not, on this machine or behind a URL, and one sentence for what is wrong with them.

What lies behind a URL is downloaded once into the cache of `datasets`, which also asks whether it has changed.
"""

from __future__ import annotations

import codecs
import contextlib
import gzip
import hashlib
import io
import sys
import zlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from suzoo.data._columns import Odd
from suzoo.data._errors import DataError
from suzoo.reach import format_of, is_url, without_query

# No text is so long, and a .gz of a megabyte may hold a line of a gigabyte. A csv row may span lines: it counts as one.
MAX_LINE_BYTES = 1 << 24
# of what is read at once; a small block comes first, which tells the columns
FIRST_BYTES = 1 << 14
BLOCK_BYTES = 1 << 20
BLOCK_LINES = 8192


@dataclass(frozen=True)
class File:
    """A file by the name it is called in messages, and where its bytes lie."""

    name: str
    path: Path | None = field(default=None, compare=False)  # None is stdin, or what a URL streams

    @staticmethod
    def of(name: str | Path) -> File:
        """The file of a path, or of a URL, which is downloaded unless it was before."""
        if is_url(name):
            return File(str(name), _download(str(name)))
        return File(str(name), Path(name))

    @staticmethod
    def streamed(name: str) -> File:
        """The file of a path, or of a URL, which is read without being downloaded as a whole."""
        return File(name) if is_url(name) else File(name, Path(name))

    @property
    def is_gzip(self) -> bool:
        return without_query(self.name).lower().endswith(".gz")

    @property
    def format(self) -> str:
        """The suffix that says how to read it, .gz aside; empty if we cannot read it. Stdin is lines."""
        return format_of(self.name) if self.path or is_url(self.name) else ".txt"

    @property
    def num_bytes(self) -> int:
        """Of its text, about: packed files hold some times as much."""
        return self.path.stat().st_size * (8 if self.is_gzip or self.format == ".parquet" else 1) if self.path else 0

    def sha256(self) -> str:
        """Of its bytes; a second per gigabyte."""
        digest = hashlib.sha256()
        assert self.path is not None
        with self.path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
        return digest.hexdigest()


STDIN = File("stdin")


def _download(url: str) -> Path:
    import datasets  # takes a second to import

    try:
        return Path(datasets.DownloadManager().download(url))
    except ImportError as error:
        raise DataError(f"{url.partition('://')[0]}:// needs a package that is not installed: {error}") from error
    except Exception as error:  # of the network, or of the store's client: they have no base in common
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise DataError(f"{url} cannot be downloaded ({reason}): check the address and the network") from error


def _remote_file(url: str) -> Any:
    import fsspec

    try:
        return fsspec.open(url, "rb").open()
    except (ImportError, ValueError, OSError) as error:
        raise DataError(f"{url} can't be read ({error}): check the address and the network") from error


@contextlib.contextmanager
def opened(file: File) -> Generator[Any]:  # a binary file object; gzip's and open's have no common type
    """The bytes of a file, unpacked.

    Raises:
        DataError: damaged gzip, anywhere in the block; a pointer that Git LFS left in place of the file.
        OSError: it can't be read.
    """
    with contextlib.ExitStack() as stack:
        raw: Any
        if file.path:
            raw = stack.enter_context(file.path.open("rb"))
        elif is_url(file.name):
            raw = stack.enter_context(io.BufferedReader(_remote_file(file.name), 1 << 20))
        else:
            raw = sys.stdin.buffer
        if start_of(raw).startswith(b"version https://git-lfs."):
            raise DataError(f"{file.name} is a pointer of Git LFS, not the file itself: fetch it with `git lfs pull`")
        if not file.is_gzip:
            yield raw
            return
        try:
            yield stack.enter_context(gzip.GzipFile(fileobj=raw, mode="rb"))
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise DataError(f"{file.name} is not a whole gzip file ({error}): copy it again") from error


def start_of(binary: Any) -> bytes:
    """The first kilobytes, which stay to be read; nothing where the stream can't look ahead."""
    return binary.peek(4096)[:4096] if isinstance(binary, io.BufferedReader | gzip.GzipFile) else b""


@dataclass(frozen=True)
class Lines:
    """Lines of a file that follow each other.

    Args:
        file: that has them.
        first: number of the first, from 1.
        raw: the lines with their ends.
        overlong: the last one is longer than any text, and its rest is not here.
    """

    file: File
    first: int
    raw: list[bytes]
    overlong: bool

    def located(self) -> Iterator[tuple[str, str | DataError]]:
        """(place, line without its end), or what is wrong with it: it is not UTF-8, or too long."""
        for number, raw in enumerate(self.raw, start=self.first):
            where = f"{self.file.name} line {number}"
            if self.overlong and number == self.first + len(self.raw) - 1:
                yield where, DataError(f"{where} has more than {MAX_LINE_BYTES >> 20} MiB: no text is so long")
                continue
            try:
                yield where, raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                yield where, DataError(f"{where}: {encoding_advice(raw, error)}")

    def texts(self) -> list[str]:
        """All of them without their ends, which takes a tenth of the time.

        Raises:
            Odd: something is wrong with one.
        """
        if self.overlong:
            raise Odd
        try:
            text = b"".join(self.raw).decode("utf-8-sig" if self.first == 1 else "utf-8")
        except UnicodeDecodeError:
            raise Odd from None
        lines = text.removesuffix("\n").split("\n")
        return [line.rstrip("\r") for line in lines] if "\r" in text else lines


def line_blocks(file: File) -> Iterator[Lines]:
    """The lines of a file by the megabyte; only \\n ends a line, so U+2028 and the like stay inside.

    Where reading fails (damaged gzip, the network), the lines before come first.
    """
    with opened(file) as binary:
        _refuse_utf16(file.name, start_of(binary))
        # somebody may wait for each line of stdin
        number, raw, size, full, overlong = 1, [], 0, 0 if file is STDIN else FIRST_BYTES, False
        try:
            for line in iter(partial(binary.readline, MAX_LINE_BYTES), b""):
                raw.append(line)
                size += len(line)
                if size < full and len(line) < MAX_LINE_BYTES and len(raw) < BLOCK_LINES:
                    continue
                overlong = len(line) == MAX_LINE_BYTES and not line.endswith(b"\n")
                while overlong and (rest := binary.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                    pass
                yield Lines(file, number, raw, overlong)
                number, raw, size, full, overlong = number + len(raw), [], 0, BLOCK_BYTES if full else 0, False
        except Exception:
            if raw:
                yield Lines(file, number, raw, overlong)
            raise
        if raw:
            yield Lines(file, number, raw, overlong)


def lines_of(file: File) -> Iterator[tuple[str, str | DataError]]:
    """(place, line without its end) of all lines, see `Lines.located`."""
    return chain.from_iterable(lines.located() for lines in line_blocks(file))


def _refuse_utf16(name: str, sample: bytes) -> None:
    """By its byte order mark; or without one, by zeros: of Latin letters, tabs and commas every second byte is one."""
    zeros = [sample[place::2].count(0) for place in (0, 1)]
    one_sided = min(zeros) == 0 and sum(zeros) > len(sample) / 10
    if sample[:2] in (b"\xff\xfe", b"\xfe\xff") or one_sided or (any(zeros) and not _is_utf8(sample)):
        raise DataError(f"{name} is UTF-16, or no text: write it as UTF-8 (iconv -f UTF-16 -t UTF-8)")


def _is_utf8(sample: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(sample)  # which may end within a character
    except UnicodeDecodeError:
        return False
    return True


def encoding_advice(raw: bytes, error: UnicodeDecodeError) -> str:
    try:
        raw.decode("gb18030")
        guess = "it may be GB18030 (iconv -f GB18030 -t UTF-8)"
    except UnicodeDecodeError:
        guess = "write the file as UTF-8"
    return f"byte {raw[error.start]:#04x} at position {error.start} is not UTF-8; {guess}"
