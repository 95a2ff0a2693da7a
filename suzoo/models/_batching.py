"""Group sequences by length, so that few of the computed tokens are padding. Lengths are numbers of tokens."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from ._devices import all_to_device


def token_budget_batches(lengths: ArrayLike, max_tokens: int) -> Iterator[np.ndarray]:
    """Index arrays of batches of similar length, longest first, each of at most `max_tokens` padded tokens.

    A sequence longer than the budget is a batch of its own. Every index occurs exactly once.
    """
    lengths = np.asarray(lengths)
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        count = max(1, int(max_tokens // max(1, lengths[order[start]])))
        yield order[start : start + count]
        start += count


def optimal_cuts(sorted_lengths: ArrayLike, num_groups: int) -> list[int]:
    """Where to cut ascending `sorted_lengths` into at most `num_groups` runs so that padded tokens are fewest.

    Returns the run boundaries [0, ..., N]. Exact, by dynamic programming over the distinct lengths.
    """
    lengths = np.asarray(sorted_lengths)
    values, counts = np.unique(lengths, return_counts=True)
    ends = np.cumsum(counts)
    starts = ends - counts
    # cost[i, j]: padded tokens when the distinct lengths i..j share one run
    cost = np.where(starts[:, None] <= starts[None, :], (ends[None, :] - starts[:, None]) * values[None, :], np.inf)
    best = cost[0]  # best[j]: fewest padded tokens for lengths 0..j
    choices = []
    for _ in range(min(num_groups, len(values)) - 1):
        # the last run starts at i, everything before it is already best
        options = np.concatenate([[0.0], best[:-1]])[:, None] + cost
        choices.append(options.argmin(0))
        best = options.min(0)
    cuts = [len(lengths)]
    last = len(values) - 1
    for choice in reversed(choices):
        first = choice[last]
        cuts.append(int(starts[first]))
        last = first - 1
        if last < 0:
            break
    if cuts[-1] != 0:
        cuts.append(0)
    return cuts[::-1]


def length_groups(sorted_lengths: ArrayLike, max_padding: float = 0.15, max_groups: int = 8) -> list[int]:
    """Boundaries of the fewest runs (but at most `max_groups`) whose padding is under `max_padding` of all tokens."""
    lengths = np.asarray(sorted_lengths)
    cuts = [0, len(lengths)]
    for num_groups in range(1, max_groups + 1):
        cuts = optimal_cuts(lengths, num_groups)
        padded = sum((end - start) * int(lengths[end - 1]) for start, end in pairwise(cuts))
        if padded - lengths.sum() < max_padding * padded:
            break
    return cuts


def sorted_sentences(input_ids: Tensor, lengths: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(order, lengths, tokens): sentences by ascending length, and the flat token indices that put them so."""
    lengths_N = np.asarray(lengths)
    if lengths_N.sum() != input_ids.numel():
        raise ValueError(f"lengths sum to {lengths_N.sum()}, but input_ids has {input_ids.numel()} tokens")
    order = np.argsort(lengths_N, kind="stable")
    starts = np.cumsum(lengths_N) - lengths_N
    sorted_lengths = lengths_N[order]
    within = np.arange(sorted_lengths.sum()) - np.repeat(np.cumsum(sorted_lengths) - sorted_lengths, sorted_lengths)
    return order, sorted_lengths, np.repeat(starts[order], sorted_lengths) + within


def is_sharded(model: nn.Module) -> bool:
    """Whether FSDP2 gathers weights of the model at every forward."""
    fsdp = sys.modules.get("torch.distributed.fsdp")  # slow to import, and nothing is sharded without it
    return fsdp is not None and any(isinstance(module, fsdp.FSDPModule) for module in model.modules())


def padded_groups(
    model: nn.Module, input_ids: Tensor, token_type_ids: Tensor | None, lengths: Sequence[int], pad_token_id: int
):
    """Flat sentences as (rows, inputs, slots, flat): padded sub-batches of similar length, `rows` their places in
    `lengths`, `slots` where in the padded rows the tokens are that `flat` were in `input_ids`.

    A sharded `model` gets one: its ranks gather weights together, so all must compute equally many. So does one on an
    accelerator, where many short kernels take longer than the padding.
    """
    order, sorted_lengths, tokens = sorted_sentences(input_ids, lengths)
    device = input_ids.device
    whole = device.type != "cpu" or is_sharded(model)
    cuts = [0, len(order)] if whole else length_groups(sorted_lengths)
    ends = np.cumsum(sorted_lengths)
    for first, last in pairwise(cuts):
        mask = np.arange(sorted_lengths[last - 1]) < sorted_lengths[first:last, None]
        flat = tokens[ends[first] - sorted_lengths[first] : ends[last - 1]]
        rows, slots, flat = all_to_device([order[first:last], np.flatnonzero(mask), flat], device)

        def padded(values_T: Tensor, padding: int, slots=slots, flat=flat, shape=mask.shape) -> Tensor:
            empty = values_T.new_full((shape[0] * shape[1],), padding)
            return empty.index_copy(0, slots, values_T.view(-1)[flat]).view(shape)

        inputs = {"input_ids": padded(input_ids, pad_token_id)}
        inputs["attention_mask"] = padded(torch.ones_like(input_ids), 0)
        if token_type_ids is not None:
            inputs["token_type_ids"] = padded(token_type_ids, 0)
        yield rows, inputs, slots, flat
