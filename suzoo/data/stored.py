"""Rows on the disk: an Arrow file in the cache, memory-mapped, so that memory does not grow with the data.

The cache is `$SUZOO_CACHE`, by default `suzoo` in the folder of the Hugging Face caches. A file in it is named by what
it was made from (content, columns, options) and appears when it is whole. One process writes it, the others of the
machine wait and map it. It may be deleted at any time no run uses it: it is made anew.
"""

from __future__ import annotations

import json
import logging
import operator
import os
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from json.encoder import encode_basestring
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

import numpy as np

from suzoo.data._errors import DataError
from suzoo.data.fingerprints import Fingerprint

if TYPE_CHECKING:
    import pyarrow

logger = logging.getLogger(__name__)
T = TypeVar("T")
FORMAT = 4  # of the files in the cache: a new number makes all of them anew
BATCH_ROWS = 8192
BATCH_CHARACTERS = 1 << 24
BATCH_BYTES = 1 << 22  # least of a batch of the file: to open it is to touch, and so to map, some pages of each
LOOKS = 128  # single rows, after which the file is mapped anew: the system maps 64 KiB around each value that is read
HASH = "hash"  # column of the 64-bit hashes of the rows' texts


@dataclass(frozen=True)
class Layout(Generic[T]):
    """How rows of one kind stand in columns.

    Args:
        columns: name -> "text", "number" or "texts", in the order in which `make` takes them.
        make: values -> row, which has them as attributes of those names.
        compared: the columns whose texts make two rows duplicates.
        bare: a row is the value of the only column.
    """

    columns: dict[str, str]
    make: Callable[..., T]
    compared: tuple[str, ...]
    bare: bool = False

    def schema(self) -> pyarrow.Schema:
        import pyarrow as pa

        kinds = {"text": pa.large_string(), "number": pa.float64(), "texts": pa.list_(pa.large_string())}
        return pa.schema([*((name, kinds[kind]) for name, kind in self.columns.items()), (HASH, pa.uint64())])

    def columns_of(self, rows: Sequence[T]) -> list[Sequence[Any]]:
        return [rows] if self.bare else [list(map(operator.attrgetter(name), rows)) for name in self.columns]

    def texts(self, row: T) -> list[str]:
        """All texts by which it is compared."""
        values = dict(zip(self.columns, self.columns_of([row]), strict=True))
        parts = [values[name][0] for name in self.compared]
        return [text for part in parts for text in ([part] if isinstance(part, str) else part)]

    def hashes(self, columns: Sequence[Sequence[Any]]) -> Iterator[int]:
        """64 bits for the texts of each row."""
        import xxhash

        values = dict(zip(self.columns, columns, strict=True))
        parts = [
            values[name] if self.columns[name] == "text" else map("\0".join, values[name]) for name in self.compared
        ]
        return (xxhash.xxh3_64_intdigest(text.encode()) for text in map("\0".join, zip(*parts, strict=True)))

    def json_lines(self, columns: Sequence[Sequence[Any]]) -> str:
        """What `Fingerprint` takes of the rows."""
        write = {
            "text": encode_basestring,
            "number": repr,
            "texts": lambda texts: f"[{', '.join(map(encode_basestring, texts))}]",
        }
        pairs = zip(self.columns.items(), columns, strict=True)
        written = {name: map(write[kind], column) for (name, kind), column in pairs}
        template = "%s" if self.bare else "{" + ", ".join(f'"{name}": %s' for name in sorted(written)) + "}"
        return "".join(map(f"{template}\n".__mod__, zip(*(written[name] for name in sorted(written)), strict=True)))


TEXT = Layout[str]({"text": "text"}, str, ("text",), bare=True)


class Rows(list[T]):
    """Rows in memory, and how many of them each source gave."""

    sizes: Sequence[int] = ()


class StoredRows(Sequence[T]):
    """The rows of an Arrow file. A row is made when it is asked for; a slice is a list.

    Args:
        path: of the file.
        layout: of its rows.
    """

    def __init__(self, path: Path, layout: Layout[T]):
        self.path, self.layout = path, layout
        self.batches = open_batches(path)
        self.starts = np.cumsum([0, *(batch.num_rows for batch in self.batches)]).tolist()
        self.about: dict[str, Any] = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        self.sizes: list[int] = self.about["sizes"]  # rows of each source
        self._looks = 0

    def __len__(self) -> int:
        return self.starts[-1]

    @overload
    def __getitem__(self, place: int) -> T: ...
    @overload
    def __getitem__(self, place: slice) -> list[T]: ...
    def __getitem__(self, place):
        if isinstance(place, slice):
            begin, end, step = place.indices(len(self))
            return list(self._run(begin, end)) if step == 1 else [self[number] for number in range(begin, end, step)]
        number = operator.index(place)
        number += len(self) if number < 0 else 0
        if not 0 <= number < len(self):
            raise IndexError(f"row {place} of {len(self)}")
        self._looks += 1
        if self._looks % LOOKS == 0:
            self.unload()
        batch = bisect_right(self.starts, number) - 1
        row = number - self.starts[batch]
        return self.layout.make(*(self.batches[batch].column(name)[row].as_py() for name in self.layout.columns))

    def __iter__(self) -> Iterator[T]:
        return self._run(0, len(self))

    def _run(self, begin: int, end: int) -> Iterator[T]:
        for start, batch in zip(self.starts, self.batches, strict=False):
            if begin < start + batch.num_rows and start < end:
                part = batch.slice(max(0, begin - start), min(end, start + batch.num_rows) - max(begin, start))
                yield from map(self.layout.make, *(part.column(name).to_pylist() for name in self.layout.columns))

    def column(self, name: str) -> np.ndarray:
        """A column of numbers (n,)."""
        found = np.concatenate([batch.column(name).to_numpy() for batch in self.batches])
        self.unload()
        return found

    def unload(self) -> None:
        """Map the file anew: what was read of it no longer counts as memory of this process."""
        self.batches = open_batches(self.path)


def numbers(rows: Sequence[Any], name: str) -> np.ndarray:
    """The field `name` of all rows, (n,)."""
    if isinstance(rows, StoredRows):
        return rows.column(name)
    return np.array([getattr(row, name) for row in rows])


def cache_folder() -> Path:
    """Where the files lie."""
    from huggingface_hub.constants import HF_HOME

    return Path(os.environ.get("SUZOO_CACHE") or Path(HF_HOME, "suzoo")).expanduser()


def open_batches(path: Path) -> list[pyarrow.RecordBatch]:
    """The batches of an Arrow file, mapped and not read.

    Raises:
        DataError: it is damaged.
    """
    import pyarrow as pa

    try:
        file = pa.ipc.open_file(pa.memory_map(str(path)))
        return [file.get_batch(number) for number in range(file.num_record_batches)]
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}, a file of the cache, is damaged ({error}): delete it and start again") from error


def write_batches(path: Path, schema: pyarrow.Schema, batches: Iterable[pyarrow.RecordBatch]) -> int:
    """An Arrow file of `batches`, small ones put together. Returns the number of rows."""
    import pyarrow as pa

    count, waiting = 0, []
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as file:

        def write() -> None:
            file.write_table(pa.Table.from_batches(waiting, schema).combine_chunks())
            waiting.clear()

        for batch in batches:
            count += len(batch)
            waiting.append(batch)
            if sum(one.nbytes for one in waiting) >= BATCH_BYTES:
                write()
        if waiting:
            write()
    return count


def made_once(name: str, make: Callable[[Path], None]) -> Path:
    """The file `name` of the cache. Where it is missing, one process makes it by `make(temporary path)`, and the others
    that want it wait."""
    from filelock import FileLock, Timeout

    path = cache_folder() / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_suffix(".lock"))
        try:
            lock.acquire(timeout=2)
        except Timeout:
            logger.info("another process writes %s: waiting for it", name)
            lock.acquire()
        temporary = path.with_suffix(f".{os.getpid()}.partial")
        try:
            if not path.exists():
                make(temporary)
                with temporary.open("rb") as file:
                    os.fsync(file.fileno())
                os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
            lock.release()
    return path


def store(
    name: str, layout: Layout[T], parts: Callable[[], Iterable[Sequence[Sequence[Any]]]], about: Callable[[], dict]
) -> StoredRows[T]:
    """Rows of the file `name` of the cache, which is written from `parts()` if it is not there.

    Args:
        parts: -> columns of the layout, of a row or of many.
        about: called after the last row: what to remember beside them.
    """

    def make(path: Path) -> None:
        import pyarrow as pa

        logger.info("writing %s to the cache in %s", name, cache_folder())
        fingerprint, schema = Fingerprint(), layout.schema()

        def batches() -> Iterator[pyarrow.RecordBatch]:
            for columns in in_batches(parts()):
                fingerprint.add(layout.json_lines(columns))
                arrays = [
                    pa.array(column, kind)
                    for column, kind in zip([*columns, list(layout.hashes(columns))], schema.types, strict=True)
                ]
                yield pa.record_batch(arrays, schema=schema)

        count = write_batches(path, schema, batches())
        content = {"rows": count, "sha256": fingerprint.hexdigest(), **about()}
        beside = cache_folder() / Path(name).with_suffix(".json")
        beside.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")

    return StoredRows(made_once(name, make), layout)


def in_batches(parts: Iterable[Sequence[Sequence[Any]]]) -> Iterator[list[list[Any]]]:
    """Columns of more rows: so many, or so many characters, of which the last part may bring more."""
    batch: list[list[Any]] = []
    characters = 0
    for columns in parts:
        batch = batch or [[] for _ in columns]
        for whole, part in zip(batch, columns, strict=True):
            whole.extend(part)
            if part and not isinstance(part[0], float):
                characters += sum(map(len, part if isinstance(part[0], str) else chain.from_iterable(part)))
        if len(batch[0]) >= BATCH_ROWS or characters > BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch and batch[0]:
        yield batch


def hashes(rows: Sequence[T], layout: Layout[T]) -> np.ndarray:
    """64-bit hash (n,) of every row's texts."""
    if isinstance(rows, StoredRows):
        return rows.column(HASH)
    return np.fromiter(layout.hashes(layout.columns_of(rows)), np.uint64, len(rows))
