"""Rows that are read while they are trained on: files, URLs and datasets of the Hub that are larger than the disk.

The rows of a source are divided over the readers (`part` of `num_parts`) as `datasets.distributed` does it. Where a
reader is in them is a small state of `datasets`: another reader goes on from it with the very next row.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from suzoo.data import embedded
from suzoo.data._columns import Located
from suzoo.data._errors import DataError
from suzoo.data._fields import Columns, mapping_of
from suzoo.data._files import File
from suzoo.data._formats import file_rows, numbered
from suzoo.data._sources import files_of, named_classes, streamed_dataset
from suzoo.data.readers import TEXT_ROWS, Convert, Kind, Tally, first_plan, read_texts
from suzoo.data.sequences import DIALOGUE_ROWS, SEQ2SEQ_ROWS, read_dialogues, read_seq2seq
from suzoo.data.stored import Rows

logger = logging.getLogger(__name__)
T = TypeVar("T")
# the readers whose rows can be a stream
STREAMED: dict[Callable[..., Any], Kind[Any]] = {
    read_texts: TEXT_ROWS,
    read_dialogues: DIALOGUE_ROWS,
    read_seq2seq: SEQ2SEQ_ROWS,
}


def _located(files: list[str], has_header: bool) -> Iterator[dict[str, Any]]:
    """Rows of files for `datasets`, whose shards the files are."""
    for name in files:
        for where, row in file_rows(File.streamed(name), has_header):
            yield {"where": where, "row": row}


class _Source:
    """One source: its rows in the order of a pass, of all or of one part."""

    def __init__(self, name: str, split: str | None, has_header: bool):
        self.name, self.has_header = name, has_header
        self.files: list[str] | None = None
        self.hub: Any = None
        if name.startswith("embedded:"):
            self.rows = embedded.load(name.removeprefix("embedded:"), split)
        else:
            self.files = files_of(name, split)
            if self.files is None:
                self.hub = streamed_dataset(name, split)

    def dataset(self, order: Sequence[int]) -> Any:
        """An IterableDataset of all rows; the order of a pass puts files into another one."""
        import datasets

        if self.hub is not None:
            return copy.deepcopy(self.hub)
        if self.files is None:
            return datasets.Dataset.from_list(
                [{"where": where, "row": json.dumps(row)} for where, row in numbered(self.name, self.rows)]
            ).to_iterable_dataset()
        files = [self.files[place % len(self.files)] for place in order] if order else self.files
        return datasets.IterableDataset.from_generator(
            _located, gen_kwargs={"files": files, "has_header": self.has_header}
        )

    def located(self, example: dict, where: str) -> tuple[str, Any]:
        """The place and the row, or what is wrong with it, of an example of the dataset."""
        if self.hub is not None:
            return where, named_classes(example, self.hub.features or {})
        row = example["row"]
        return example["where"], json.loads(row) if isinstance(row, str) else row

    def head(self) -> Iterator[Located]:
        examples = enumerate(self.dataset(()), start=1)
        return (self.located(example, f"{self.name} row {number}") for number, example in examples)

    def content(self) -> list:
        """What is cheap to know of what it holds: names and sizes, and the version on the Hub."""
        if self.hub is not None:
            return [self.name, str(self.hub.info.version), self.hub.info.download_size]
        if self.files is None:
            return [self.name, len(self.rows)]
        return [[Path(name).name, File.streamed(name).num_bytes] for name in self.files]


class _Lane(Generic[T]):
    """Sources one after the other, pass after pass, without end; the rows of one part."""

    def __init__(self, sources: list[_Source], converts: list[Convert[T]], tally: Tally, place: tuple[int, int, int]):
        self.sources, self.converts, self.tally = sources, converts, tally
        self.seed, self.part, self.num_parts = place
        self.number = self.source = self.read = self.read_in_pass = 0  # pass, source, rows read of it and in the pass
        self._open(None)

    def _open(self, state: dict | None) -> None:
        from datasets.distributed import split_dataset_by_node

        source = self.sources[self.source]
        order = np.random.default_rng([self.seed, self.number]).permutation(len(source.files or ())).tolist()
        self.dataset = source.dataset(order)
        if self.num_parts > 1:
            self.dataset = split_dataset_by_node(self.dataset, self.part, self.num_parts)
        if state is not None:
            self.dataset.load_state_dict(state)
        self.examples = iter(self.dataset)

    def state(self) -> dict[str, Any]:
        return {
            "pass": self.number,
            "source": self.source,
            "read": self.read,
            "read_in_pass": self.read_in_pass,
            "dataset": copy.deepcopy(self.dataset.state_dict()) if self.read else None,
        }

    def load(self, state: dict[str, Any]) -> None:
        self.number, self.source = state["pass"], state["source"]
        self.read, self.read_in_pass = state["read"], state["read_in_pass"]
        self._open(state["dataset"])

    def _next(self) -> None:
        """To the next source; behind the last one another pass begins."""
        self.source, self.read = self.source + 1, 0
        if self.source == len(self.sources):
            names = ", ".join(source.name for source in self.sources)
            if not self.read_in_pass or self.read_in_pass == self.tally.num_bad:  # none, or none that is good
                fault = f"good rows; the first fault: {self.tally.first}" if self.tally.first else "rows"
                part = f" for process {self.part + 1} of {self.num_parts}" if self.num_parts > 1 else ""
                raise DataError(f"{names} has no {fault}{part}")
            if self.tally.num_bad and not self.number:
                bad, first = self.tally.num_bad, self.tally.first
                logger.warning("%s: skipped %d bad of %d rows; the first: %s", names, bad, self.read_in_pass, first)
            self.source, self.number, self.read_in_pass = 0, self.number + 1, 0
        self._open(None)

    def rows(self, num_read: int | None) -> Iterator[tuple[str, T]]:
        """(place, row) of the good ones of the next so many; None is to the end of this pass."""
        begun = self.number
        while (num_read is None and self.number == begun) or num_read:
            example = next(self.examples, None)
            if example is None:
                self._next()
                continue
            num_read = num_read and num_read - 1
            self.read, self.read_in_pass = self.read + 1, self.read_in_pass + 1
            source = self.sources[self.source]
            of_part = f" of part {self.part + 1} of {self.num_parts}" if self.num_parts > 1 else ""
            where, row = source.located(example, f"{source.name} row {self.read}{of_part}")
            try:
                if isinstance(row, DataError):
                    raise row
                converted = self.converts[self.source].row(where, row)
            except DataError as fault:
                self.tally.fault(fault)
                continue
            self.tally.num_good += 1
            yield from ((where, found) for found in converted)


class RowStream(Generic[T]):
    """Rows of one part of the sources, without end.

    Without weights the sources come one after the other, with weights a row is of a source by its share; files are read
    in another order in each pass. All of it is a function of the seed.

    Args:
        lanes: of sources that come one after the other.
        weights: share of each lane.
    """

    def __init__(self, lanes: list[_Lane[T]], weights: Sequence[float], seed: int, part: int):
        self.lanes, self.seed, self.part = lanes, seed, part
        self.shares = np.array(weights or [1.0]) / sum(weights or [1.0])

    def take(self, num_rows: int, number: int) -> list[tuple[str, T]]:
        """(place, row) of the good ones of the next rows.

        Args:
            num_rows: how many are read.
            number: of the call, which decides how many come from which source.
        """
        counts = np.random.default_rng([self.seed, self.part, number]).multinomial(num_rows, self.shares).tolist()
        return [row for lane, count in zip(self.lanes, counts, strict=True) if count for row in lane.rows(count)]

    def head(self, num_rows: int) -> list[T]:
        """As many good rows, by the shares, or fewer: a source that ends before does not begin again."""
        counts = np.random.default_rng([self.seed, self.part, 0]).multinomial(num_rows, self.shares).tolist()
        return [
            row for lane, count in zip(self.lanes, counts, strict=True) for _, row in islice(lane.rows(None), count)
        ]

    def state(self) -> list[dict[str, Any]]:
        """Where it is: plain data."""
        return [lane.state() for lane in self.lanes]

    def load(self, state: list[dict[str, Any]]) -> None:
        for lane, of_lane in zip(self.lanes, state, strict=True):
            lane.load(of_lane)


class Stream(Generic[T]):
    """Sources as streams of rows; bad rows are those of the readers, with their sentences. Iterating gives the first
    `num_head` good rows, each once, the same in every process.

    Args:
        sources, kind, split, columns, skip_bad_rows: as a reader has them.
        weights: one per source, or none.
        seed: of the order.
    """

    def __init__(
        self,
        sources: Sequence[str],
        kind: Kind[T],
        *,
        split: str | None = None,
        columns: Columns = None,
        skip_bad_rows: bool = False,
        weights: Sequence[float] = (),
        seed: int = 0,
        num_head: int = 1000,
    ):
        mapping, has_header = mapping_of(columns, kind.fields)
        self.skip_bad_rows, self.weights, self.seed, self.num_head = skip_bad_rows, weights, seed, num_head
        self.sources = [_Source(str(name), split, has_header) for name in sources]
        self._converts = [
            first_plan(source.name, source.head(), mapping, kind, Tally(skip_bad_rows, None)) for source in self.sources
        ]

    def part(self, part: int, num_parts: int) -> RowStream[T]:
        """The rows of one of so many readers."""
        pairs = list(zip(self.sources, self._converts, strict=True))
        groups = [[pair] for pair in pairs] if self.weights else [pairs]
        place = (self.seed, part, num_parts)
        lanes = [
            _Lane([source for source, _ in group], [of for _, of in group], Tally(self.skip_bad_rows, None), place)
            for group in groups
        ]
        return RowStream(lanes, self.weights, self.seed, part)

    def __iter__(self) -> Iterator[T]:
        return iter(self.part(0, 1).head(self.num_head))

    def once(self, max_rows: int | None) -> Rows[T]:
        """All rows, or so many, in memory."""
        lanes = self.part(0, 1).lanes
        found = Rows(islice((row for _, row in chain.from_iterable(lane.rows(None) for lane in lanes)), max_rows))
        found.sizes = [len(found)]
        return found

    def content(self) -> str:
        """A name for what the sources hold, told from the names and sizes of their files: nothing is read for it."""
        found = [source.content() for source in self.sources]
        return hashlib.sha256(json.dumps(found).encode()).hexdigest()
