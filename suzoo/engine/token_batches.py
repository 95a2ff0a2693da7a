"""Batches of a fixed number of tokens instead of examples, for losses that are a mean over tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from suzoo.distributed import rank, world_size
from suzoo.models._batching import token_budget_batches


class TokenBatches:
    """Micro-batches of examples of like length, `batches[step]` for `suzoo.engine.fit`; almost nothing is padding.

    Each epoch draws anew who meets whom among examples of one length, and the order of the micro-batches; those that do
    not fill a last step are left out, others in every epoch. As the lengths are sorted, the cuts and so the number of
    steps are the same in all epochs, and a step is a pure function of the seed and its number. Do not use it where the
    loss compares the examples of a batch (CoSENT, SimCSE): labels go with length, use `RandomBatches`.

    Args:
        examples: anything indexable.
        lengths: (n,) tokens of each example.
        max_tokens: largest size of a micro-batch, examples times the longest of them.
        collate: list of examples -> micro-batch.
        seed: of all choices.
        num_micro_batches: micro-batches per optimizer step on each rank.
        num_ranks: how many ranks the steps are made for; default is how many run. Others may run them, to the same
            gradient: the micro-batches of a step are shared out anew.
        blank: micro-batch -> one like it without labels, for ranks that get one less than others.

    Raises:
        ValueError: not one length per example; an example longer than `max_tokens`; fewer micro-batches than one step
            takes.
    """

    def __init__(
        self,
        examples: Sequence[Any],
        lengths: Sequence[int],
        *,
        max_tokens: int,
        collate: Callable[[list[Any]], Any],
        seed: int = 0,
        num_micro_batches: int = 1,
        num_ranks: int | None = None,
        blank: Callable[[Any], Any] | None = None,
    ):
        if len(examples) != len(lengths) or not len(lengths):
            raise ValueError(
                f"there must be one length per example and one at least, not {len(lengths)} for {len(examples)}"
            )
        self.examples = examples
        self.lengths = np.asarray(lengths)
        longest = int(self.lengths.argmax())
        if self.lengths[longest] > max_tokens:
            raise ValueError(
                f"example {longest} has {self.lengths[longest]} tokens, more than the {max_tokens} of a micro-batch: "
                "cut it, or raise the number of tokens"
            )
        self.max_tokens = max_tokens
        self.collate = collate
        self.seed = seed
        self.num_micro_batches = num_micro_batches
        self._per_step = (num_ranks or world_size()) * num_micro_batches
        self.blank = blank
        if self._per_step % world_size() and blank is None:
            raise ValueError(f"{self._per_step} micro-batches of a step can't be shared out to {world_size()} ranks")
        self._epoch: tuple[int, list[np.ndarray]] | None = None
        self.steps_per_epoch = len(self._batches(0)) // self._per_step
        if not self.steps_per_epoch:
            raise ValueError(
                f"{len(examples)} examples make only {len(self._batches(0))} micro-batches of {max_tokens} tokens, and "
                f"a step takes {self._per_step}: lower the number of tokens or of micro-batches"
            )

    def _batches(self, epoch: int) -> list[np.ndarray]:
        """All micro-batches of an epoch in their order, as indices of examples."""
        if self._epoch is None or self._epoch[0] != epoch:
            rng = np.random.default_rng([self.seed, epoch])
            permutation = rng.permutation(len(self.lengths))
            found = [permutation[b] for b in token_budget_batches(self.lengths[permutation].tolist(), self.max_tokens)]
            self._epoch = epoch, [found[place] for place in rng.permutation(len(found))]
        return self._epoch[1]

    def _of_step(self, step: int) -> list[np.ndarray]:
        epoch, place = divmod(step, self.steps_per_epoch)
        return self._batches(epoch)[place * self._per_step : (place + 1) * self._per_step]

    def rows(self, step: int) -> np.ndarray:
        """Indices of the examples of a step, over all ranks."""
        return np.concatenate(self._of_step(step))

    def __getitem__(self, step: int) -> list[Any]:
        everywhere = self._of_step(step)
        parts = [self.collate([self.examples[row] for row in rows]) for rows in everywhere[rank() :: world_size()]]
        if self.blank is not None and len(parts) < -(-len(everywhere) // world_size()):
            parts.append(self.blank(self.collate([self.examples[row] for row in everywhere[0]])))
        return parts
