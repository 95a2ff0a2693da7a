"""The loss of a language-model head without the logits of all tokens in memory at once.

Shapes: (...) tokens, D features, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from suzoo.losses._common import divide_by_count


def chunked_loss(
    loss: Callable[..., Tensor],
    head: Callable[[Tensor], Tensor],
    hidden: Tensor,
    labels: Tensor,
    *,
    chunk_size: int = 1024,
    ignore_index: int = -100,
    num_items: int | Tensor | None = None,
    places: Tensor | None = None,
) -> Tensor:
    """`loss(head(hidden), labels)`, the mean over the labels that are not ignored, `chunk_size` tokens at a time.

        chunked_loss(cross_entropy_loss, model.lm_head, hidden[:, :-1], labels[:, 1:])

    The logits of a chunk are computed, used, dropped, and computed again in the backward: chunk_size x V of them exist
    instead of all, for the time of one more pass of the head. Ignored tokens never reach the head. Works for every
    loss here that takes logits and labels, on every device and dtype. Where plain cross-entropy is all one wants,
    `torch.nn.functional.linear_cross_entropy` is faster, but it turns the weights to NaN when all labels are ignored.
    Trim the vocabulary first: that saves the embedding too. How many tokens are left is known only when it runs, so
    that `torch.compile` of a function with it breaks the graph, and refuses `fullgraph=True`: compile the head or the
    loss.

    Args:
        loss: takes logits, labels and `reduction="sum"`; bind its options with `functools.partial`.
        head: hidden states to logits, such as the model's `lm_head`.
        hidden: (..., D). labels: (...) class indices.
        chunk_size: tokens per chunk.
        ignore_index: this label is left out.
        num_items: divisor instead of the number of labels that count: that of the whole step. 0 counts as 1.
        places: (N,) where the labels that are not ignored are among the flattened ones, if that is known, as where a
            batch is made: looked up here, an accelerator would be waited for.

    Returns:
        Scalar, float32 at least; an attached 0 if all labels are ignored.

    Raises:
        ValueError: shapes do not fit, chunk_size < 1, or `loss` is a partial with another `ignore_index`.
    """
    if hidden.shape[:-1] != labels.shape or chunk_size < 1:
        raise ValueError(
            f"chunked_loss takes hidden (..., D), labels (...) and chunk_size > 0, not {(*hidden.shape,)}, "
            f"{(*labels.shape,)} and {chunk_size}"
        )
    of_loss = loss.keywords.get("ignore_index", ignore_index) if isinstance(loss, partial) else ignore_index
    if of_loss != ignore_index:
        raise ValueError(
            f"chunked_loss leaves labels out and counts by itself: give ignore_index={of_loss} to it, not to the loss"
        )
    if places is None:
        places = (labels.flatten() != ignore_index).nonzero()[:, 0]
    hidden, labels = hidden.flatten(0, -2).index_select(0, places), labels.flatten().index_select(0, places)

    def of_chunk(hidden_chunk: Tensor, labels_chunk: Tensor) -> Tensor:
        return loss(head(hidden_chunk), labels_chunk, reduction="sum")

    # without any token the head still sees one empty chunk: its parameters get a zero gradient, and DDP is content
    chunks = zip(hidden.split(chunk_size), labels.split(chunk_size), strict=True)
    sums = [checkpoint(of_chunk, h, y, use_reentrant=False) for h, y in chunks]
    return divide_by_count(torch.stack(sums).sum(), labels, "mean", num_items)
