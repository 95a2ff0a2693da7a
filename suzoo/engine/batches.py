"""Which examples meet in which step: a pure function of the seed and the step, so that a resumed run sees the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from suzoo.distributed import rank, world_size
from suzoo.engine.mixture import Mixture, drawn

Mix = Literal["proportional", "alternate", "together"]


class RandomBatches:
    """Batches of a fixed number of random examples. `batches[step]` is this rank's list of collated micro-batches.

    Each epoch is a new permutation; the last, incomplete batch of an epoch is left out, and its examples come up in
    others. The global batch of a step does not depend on the number of ranks or micro-batches.

    Args:
        examples: anything indexable.
        batch_size: examples per optimizer step, over all ranks and micro-batches.
        collate: list of examples -> micro-batch.
        seed: of the permutations.
        num_micro_batches: into how many parts each rank cuts its share.
        mixture: of the sources that the examples come from, where some come up more often than others.

    Raises:
        ValueError: fewer examples than one batch, or a batch that does not divide into ranks and micro-batches.
    """

    def __init__(
        self,
        examples: Sequence[Any],
        *,
        batch_size: int,
        collate: Callable[[list[Any]], Any],
        seed: int = 0,
        num_micro_batches: int = 1,
        mixture: Mixture | None = None,
    ):
        parts = world_size() * num_micro_batches
        if batch_size % parts:
            raise ValueError(
                f"batch size {batch_size} does not divide into {world_size()} ranks x {num_micro_batches} micro-batches"
            )
        if len(examples) < batch_size:
            raise ValueError(f"only {len(examples)} examples for batches of {batch_size}: lower the batch size")
        self.examples = examples
        self.batch_size = batch_size
        self.collate = collate
        self.seed = seed
        self.num_micro_batches = num_micro_batches
        assert mixture is None or len(mixture) == len(examples)
        self.mixture = mixture
        self.steps_per_epoch = len(examples) // batch_size
        self._permutation: tuple[int, np.ndarray] | None = None

    def rows(self, step: int) -> np.ndarray:
        """Indices (batch_size,) of the examples of a step, over all ranks."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if self._permutation is None or self._permutation[0] != epoch:
            order = np.arange(len(self.examples), dtype=np.uint32)  # half of what `permutation` takes, in its order
            if self.mixture is not None:
                sources = zip(pairwise(self.mixture.starts), self.mixture.counts, strict=True)
                parts = [
                    drawn(order[begin:end], count, epoch, [self.seed, number, 1])
                    for number, ((begin, end), count) in enumerate(sources)
                ]
                order = np.concatenate(parts)
            np.random.default_rng([self.seed, epoch]).shuffle(order)
            self._permutation = epoch, order
        return self._permutation[1][place * self.batch_size : (place + 1) * self.batch_size]

    def __getitem__(self, step: int) -> list[Any]:
        mine = np.array_split(self.rows(step), world_size())[rank()]
        parts = np.array_split(mine, self.num_micro_batches)
        return [self.collate([self.examples[int(row)] for row in part]) for part in parts]


class MixedBatches:
    """Several data sets, a batch of one of them or of each in a step: `batches[step]` is a list of (name, micro-batch).

    - proportional: every step has one data set, in random order; an epoch is one pass over all of them.
    - alternate: by turns; an epoch is as long as one pass over the first takes, shorter ones repeat.
    - together: every step has a batch of each; an epoch is one pass over the first.

    Args:
        parts: name -> its batches; the first is the main one.
        mix: see above.
        seed: of the order, for "proportional".
    """

    def __init__(self, parts: Mapping[str, RandomBatches], *, mix: Mix, seed: int = 0):
        self.parts, self.mix, self.seed = dict(parts), mix, seed
        self.names = list(self.parts)
        lengths = [part.steps_per_epoch for part in self.parts.values()]
        epochs = {"proportional": sum(lengths), "alternate": len(lengths) * lengths[0], "together": lengths[0]}
        if mix not in epochs:
            raise ValueError(f"mix must be one of {', '.join(epochs)}, not {mix!r}")
        self.steps_per_epoch = epochs[mix]
        self._owners: tuple[int, np.ndarray] | None = None

    def feeding(self, step: int) -> list[tuple[str, int]]:
        """Which data sets feed a step, and which batch of each it is."""
        if self.mix == "together":
            return [(name, step) for name in self.names]
        if self.mix == "alternate":
            return [(self.names[step % len(self.names)], step // len(self.names))]
        epoch, place = divmod(step, self.steps_per_epoch)
        lengths = [part.steps_per_epoch for part in self.parts.values()]
        if self._owners is None or self._owners[0] != epoch:
            order = np.random.default_rng([self.seed, epoch]).permutation(np.repeat(np.arange(len(lengths)), lengths))
            self._owners = epoch, order
        owners = self._owners[1]
        owner = owners[place]
        return [(self.names[owner], epoch * lengths[owner] + int((owners[:place] == owner).sum()))]

    def rows(self, step: int) -> np.ndarray:
        """Indices of the examples of a step, those of one data set after those of another."""
        return np.concatenate([self.parts[name].rows(number) for name, number in self.feeding(step)])

    def __getitem__(self, step: int) -> list[tuple[str, Any]]:
        return [(name, batch) for name, number in self.feeding(step) for batch in self.parts[name][number]]


class Ahead:
    """The micro-batches of a step, made in a thread while the step before it computes. Pure functions of the step stay
    what they are: the thread changes when they are called and nothing else.

    Args:
        batches: what the steps are made of; it must not draw from torch's global generator.
    """

    def __init__(self, batches: Any):
        self._batches = batches
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._next: tuple[int, Future] | None = None
        self.seconds_waited = 0.0

    def get(self, step: int, num_steps: int) -> list[Any]:
        """The micro-batches of `step`; those of the next one are begun, unless it is `num_steps`."""
        started = time.perf_counter()
        number, begun = self._next or (None, None)
        if begun is None or number != step:
            begun = self._begin(step)
        found = begun.result()
        self._next = (step + 1, self._begin(step + 1)) if step + 1 < num_steps else None
        self.seconds_waited += time.perf_counter() - started
        return found

    def _begin(self, step: int) -> Future:
        return self._thread.submit(self._batches.__getitem__, step)

    def close(self) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)
