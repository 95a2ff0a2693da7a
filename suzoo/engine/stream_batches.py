"""Batches of a fixed number of tokens from rows that come as a stream, resumed to the same batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from suzoo.distributed import all_gather_objects, rank, world_size
from suzoo.engine.token_batches import cuts_of


class Rows(Protocol):
    """What is read: (place, row) of the next ones, and where it is in them as plain data."""

    def take(self, num_rows: int, number: int) -> list[tuple[str, Any]]: ...

    def state(self) -> Any: ...

    def load(self, state: Any) -> None: ...


@dataclass
class _Window:
    """Rows that are read and tokenized together. `state` is where the stream was before them."""

    number: int
    state: Any
    places: list[str]
    examples: Any
    micro_batches: list[np.ndarray]


class _Part:
    """The windows of one part of the stream, one made ahead of its use in a thread."""

    def __init__(self, number: int, rows: Rows, make: Callable[[int, Rows, int], _Window]):
        self.number, self.rows, self.make = number, rows, make
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="stream")
        self.window: _Window | None = None
        self.used = 0  # micro-batches of the window
        self._ahead: Future = self._begin(0)

    def _begin(self, number: int) -> Future:
        return self._thread.submit(self.make, self.number, self.rows, number)

    def next(self) -> tuple[_Window, np.ndarray]:
        while self.window is None or self.used == len(self.window.micro_batches):
            self.window, self.used = self._ahead.result(), 0
            self._ahead = self._begin(self.window.number + 1)
        self.used += 1
        return self.window, self.window.micro_batches[self.used - 1]

    def position(self) -> dict[str, Any]:
        assert self.window is not None
        return {"window": self.window.number, "used": self.used, "rows": self.window.state}

    def load(self, position: dict[str, Any]) -> None:
        self._ahead.result()  # the thread is done with the rows
        self.rows.load(position["rows"])
        self.window = self.make(self.number, self.rows, position["window"])
        self.used = position["used"]
        self._ahead = self._begin(self.window.number + 1)


class StreamBatches:
    """Micro-batches of examples of like length from a stream, `batches[step]` for `suzoo.engine.fit`, step after step.

    The stream is divided into parts, one for each rank that the run began with. A window of a part is read, tokenized
    and sorted by length, cut into micro-batches, and these come in random order; the next window is made in a thread.
    A step is a function of the stream, the seed and its number; where the run is in the stream goes into checkpoints.

    Args:
        rows: (part, number of parts) -> its rows, which begin anew at their end.
        tokenize: (rows, number of the first) -> examples, indexable, with `lengths()`.
        window: rows that are shuffled together.
        max_tokens, collate, seed, num_micro_batches, num_ranks, blank, draws: see `TokenBatches`.
    """

    steps_per_epoch = None  # nobody knows

    def __init__(
        self,
        rows: Callable[[int, int], Rows],
        tokenize: Callable[[list[Any], int], Any],
        *,
        window: int,
        max_tokens: int,
        collate: Callable[..., Any],
        blank: Callable[[Any], Any],
        seed: int = 0,
        num_micro_batches: int = 1,
        num_ranks: int | None = None,
        draws: bool = False,
    ):
        self.tokenize, self.window, self.max_tokens = tokenize, window, max_tokens
        self.collate, self.blank, self.draws, self.seed = collate, blank, draws, seed
        self.num_micro_batches, self.num_parts = num_micro_batches, num_ranks or world_size()
        mine = range(rank(), self.num_parts, world_size())
        self.parts = [_Part(number, rows(number, self.num_parts), self._make) for number in mine]
        self._next = 0
        self._positions: dict[int, list[dict[str, Any]]] = {}  # before a step, of each part
        self._places: dict[int, list[str]] = {}

    def _make(self, part: int, rows: Rows, number: int) -> _Window:
        state = rows.state()
        rng = np.random.default_rng([self.seed, part, number, 1])
        found = rows.take(self.window, number)
        if not found:  # all of them were bad
            return _Window(number, state, [], None, [])
        examples = self.tokenize([row for _, row in found], (number * self.num_parts + part) * self.window)
        lengths = np.asarray(examples.lengths())
        if lengths.max() > self.max_tokens:
            place = found[int(lengths.argmax())][0]
            raise ValueError(
                f"{place} has {lengths.max()} tokens, more than the {self.max_tokens} of a micro-batch: cut it, or "
                "raise the number of tokens"
            )
        order = rng.permutation(len(lengths))
        order = order[np.argsort(-lengths[order].astype(np.int64), kind="stable")]
        micro_batches = np.split(order, cuts_of(lengths[order], self.max_tokens)[1:-1])
        shuffled = [micro_batches[place] for place in rng.permutation(len(micro_batches))]
        return _Window(number, state, [place for place, _ in found], examples, shuffled)

    def __getitem__(self, step: int) -> list[Any]:
        assert step == self._next, f"a stream has no step {step} behind step {self._next - 1}"
        batches, places = [], []
        for part in self.parts:
            for place in range(self.num_micro_batches):
                window, numbers = part.next()
                examples = [window.examples[int(number)] for number in numbers]
                places += [window.places[int(number)] for number in numbers] if window.places else []
                key = [self.seed, step, part.number, place]
                seed = int(np.random.default_rng(key).integers(1 << 62))
                generator = [torch.Generator().manual_seed(seed)] if self.draws else []
                batches.append(self.collate(examples, *generator))
        most = -(-self.num_parts // world_size()) * self.num_micro_batches
        batches += [self.blank(batches[0]) for _ in range(most - len(batches))]
        self._next = step + 1
        self._positions = {number: of for number, of in self._positions.items() if number > step - 1}
        self._positions[step + 1] = [part.position() for part in self.parts]
        self._places = {number: of for number, of in self._places.items() if number > step - 2} | {step: places}
        return batches

    def rows(self, step: int) -> Sequence[str]:
        """Places of the examples of a step on this rank, of the last two."""
        return self._places[step]

    def state(self, step: int) -> list[dict[str, Any]]:
        """Where every part is before the step that comes next, or the one after; every rank must call it."""
        of_ranks = all_gather_objects(self._positions[step])
        return [of_ranks[number % len(of_ranks)][number // len(of_ranks)] for number in range(self.num_parts)]

    def load(self, step: int, state: list[dict[str, Any]]) -> None:
        """Go on with `step`, from what `state` returned, on any number of ranks."""
        for part in self.parts:
            part.load(state[part.number])
        self._next = step
        self._positions = {step: [part.position() for part in self.parts]}
