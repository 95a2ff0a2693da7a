"""Batches of a fixed number of tokens instead of examples, for losses that are a mean over tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from suzoo.distributed import rank, world_size
from suzoo.engine.mixture import Mixture, drawn


class TokenBatches:
    """Micro-batches of examples of like length, `batches[step]` for `suzoo.engine.fit`; almost nothing is padding.

    Each epoch draws anew who meets whom among examples of one length (with a mixture, of about one), and the order of
    the micro-batches. Those that do not fill a last step are left out, others in every epoch. Lengths are sorted, so
    that the cuts and the number of steps are the same in all epochs, and a step is a pure function of the seed and its
    number. A rank holds 8 bytes per example. Do not use it where the loss compares the examples of a batch (CoSENT,
    SimCSE): labels go with length, use `RandomBatches`.

    Args:
        examples: anything indexable.
        lengths: (n,) tokens of each example.
        max_tokens: largest size of a micro-batch, examples times the longest of them.
        collate: list of examples -> micro-batch.
        draws: `collate` draws random numbers and takes a generator, seeded by the seed, the step and
            the place in it, as second argument.
        seed: of all choices.
        num_micro_batches: micro-batches per optimizer step on each rank.
        num_ranks: how many ranks the steps are made for; default is how many run. Others may run them, to the same
            gradient: the micro-batches of a step are shared out anew.
        mixture: of the sources that the examples come from, where some come up more often than others.
        blank: micro-batch -> one like it without labels, for ranks that get one less than others.

    Raises:
        ValueError: not one length per example; an example longer than `max_tokens`; fewer micro-batches than one step
            takes.
    """

    def __init__(
        self,
        examples: Sequence[Any],
        lengths: Sequence[int] | np.ndarray,
        *,
        max_tokens: int,
        collate: Callable[..., Any],
        seed: int = 0,
        num_micro_batches: int = 1,
        num_ranks: int | None = None,
        blank: Callable[[Any], Any] | None = None,
        draws: bool = False,
        mixture: Mixture | None = None,
    ):
        if len(examples) != len(lengths) or not len(lengths):
            raise ValueError(
                f"there must be one length per example and one at least, not {len(lengths)} for {len(examples)}"
            )
        assert mixture is None or len(mixture) == len(examples)
        self.examples, self.mixture = examples, mixture
        lengths = np.asarray(lengths)
        longest = int(lengths.argmax())
        if lengths[longest] > max_tokens:
            raise ValueError(
                f"example {longest} has {lengths[longest]} tokens, more than the {max_tokens} of a micro-batch: "
                "cut it, or raise the number of tokens"
            )
        self.max_tokens = max_tokens
        self.collate = collate
        self.draws = draws
        self.seed = seed
        self.num_micro_batches = num_micro_batches
        self._per_step = (num_ranks or world_size()) * num_micro_batches
        self.blank = blank
        if self._per_step % world_size() and blank is None:
            raise ValueError(f"{self._per_step} micro-batches of a step can't be shared out to {world_size()} ranks")
        # examples by length, longest first, in 4 bytes each, source after source; length -> where the examples lie that
        # change places, and how many of them an epoch has
        self._order = np.empty(len(lengths), np.uint32)
        self._groups: dict[int, list[tuple[int, int, int]]] = {}
        starts = [0, len(lengths)] if mixture is None else mixture.starts
        for source, (begin, end) in enumerate(pairwise(starts)):
            order = np.argsort(-lengths[begin:end].astype(np.int32), kind="stable")
            self._order[begin:end] = order + begin
            cuts = [0, *(np.flatnonzero(np.diff(lengths[begin:end][order])) + 1).tolist(), end - begin]
            if mixture is not None:
                cuts = _wide_enough(cuts, partial(mixture.share, source))
            for first, last in pairwise(cuts):
                count = last - first if mixture is None else mixture.share(source, first, last)
                longest = int(lengths[begin + order[first]])
                self._groups.setdefault(longest, []).append((begin + first, begin + last, count))
        counts = {length: sum(count for *_, count in groups) for length, groups in self._groups.items()}
        by_length = np.repeat(*np.array(sorted(counts.items(), reverse=True)).T)
        self._cuts = cuts_of(by_length, max_tokens)
        self._epoch: tuple[int, np.ndarray, np.ndarray] | None = None
        self.steps_per_epoch = (len(self._cuts) - 1) // self._per_step
        if not self.steps_per_epoch:
            raise ValueError(
                f"{len(examples)} examples make only {len(self._cuts) - 1} micro-batches of {max_tokens} tokens, and "
                f"a step takes {self._per_step}: lower the number of tokens or of micro-batches"
            )

    def _draw(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The examples by length, those of one length in an order of this epoch, and the order of the micro-batches."""
        if self._epoch is None or self._epoch[0] != epoch:
            rng = np.random.default_rng([self.seed, epoch])
            parts = []
            for length in sorted(self._groups, reverse=True):
                groups = [(self._order[begin:end], begin, count) for begin, end, count in self._groups[length]]
                if self.mixture is None:
                    rows = groups[0][0].copy()
                else:
                    rows = np.concatenate([drawn(rows, n, epoch, [self.seed, begin, 1]) for rows, begin, n in groups])
                rng.shuffle(rows)
                parts.append(rows)
            order = np.concatenate(parts)
            self._epoch = epoch, order, rng.permutation(len(self._cuts) - 1)
        return self._epoch[1:]

    def _of_step(self, step: int) -> list[np.ndarray]:
        epoch, place = divmod(step, self.steps_per_epoch)
        order, batches = self._draw(epoch)
        numbers = batches[place * self._per_step : (place + 1) * self._per_step]
        return [order[self._cuts[number] : self._cuts[number + 1]] for number in numbers]

    def rows(self, step: int) -> np.ndarray:
        """Indices of the examples of a step, over all ranks."""
        return np.concatenate(self._of_step(step))

    def __getitem__(self, step: int) -> list[Any]:
        everywhere = self._of_step(step)
        # by its place in the step: the same on any number of ranks
        seeds = np.random.default_rng([self.seed, step]).integers(1 << 62, size=len(everywhere)).tolist()
        parts = [self._micro_batch(everywhere[n], seeds[n]) for n in range(rank(), len(everywhere), world_size())]
        if self.blank is not None and len(parts) < -(-len(everywhere) // world_size()):
            parts.append(self.blank(self._micro_batch(everywhere[0], seeds[0])))
        return parts

    def _micro_batch(self, rows: np.ndarray, seed: int) -> Any:
        examples = [self.examples[int(row)] for row in rows]
        return self.collate(examples, torch.Generator().manual_seed(seed)) if self.draws else self.collate(examples)


def cuts_of(lengths: np.ndarray, max_tokens: int, num_last: int = 32) -> list[int]:
    """Where micro-batches of at most so many padded tokens begin and end, in examples from the longest to the shortest,
    of which none is longer than a micro-batch.

    What the last one lacks is shared by the last ones, so that none is much smaller and lets other ranks wait.
    """

    def cut(begin: int, size: int) -> list[int]:
        cuts = [begin]
        while cuts[-1] < len(lengths):
            cuts.append(cuts[-1] + size // max(1, int(lengths[cuts[-1]])))
        return [*cuts[:-1], len(lengths)]

    cuts = cut(0, max_tokens)
    first = max(0, len(cuts) - 1 - num_last)
    begin, number = cuts[first], len(cuts) - first
    least, enough = max(1, int(lengths[begin])), max_tokens
    while least < enough:  # the smallest size that makes no more of them
        middle = (least + enough) // 2
        if len(cut(begin, middle)) > number:
            least = middle + 1
        else:
            enough = middle
    return cuts[:first] + cut(begin, enough)


def _wide_enough(cuts: list[int], share: Callable[[int, int], int], least: int = 32) -> list[int]:
    """Some of the cuts of a source: between two an epoch has so many examples that, rounded, each comes about as often
    as those of other places, or all that it has."""
    chosen = [0]
    for cut in cuts[1:-1]:
        if share(chosen[-1], cut) >= least and share(cut, cuts[-1]) >= least:
            chosen.append(cut)
    return [*chosen, cuts[-1]]
