"""Adversarial training on the input embeddings: FGM and PGD.

Sources: Miyato et al., arXiv 1605.07725; Madry et al., arXiv 1706.06083; Su, "对抗训练浅谈", kexue.fm/archives/7234.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from suzoo.regularizers._embeddings import Disturbance, Norm, check_norm, check_size, lengths, rescaled


def fgm(
    compute_loss: Callable[[], Tensor],
    embedding: nn.Module,
    *,
    epsilon: float = 0.5,
    norm: Norm = "sample",
    include_clean: bool = False,
) -> Tensor:
    """The loss at the embeddings moved by `epsilon` along the normalized gradient: what to call backward on.

        loss = fgm(lambda: model(**batch).loss, model.get_input_embeddings(), epsilon=0.5)

    Two forwards and two backwards. The weights are never touched. Padding (the layer's `padding_idx`) is not moved.

    The article moves the embedding matrix by one step of length `epsilon`, so that a token moves less the larger the
    batch is. That is `norm="matrix"`, except that a tied output layer does not move here. Widely copied code adds the
    clean gradient (`include_clean=True`); the article trains on the disturbed loss alone.

    Args:
        compute_loss: runs the model and returns its scalar loss; called twice, with dropout drawn anew.
        embedding: the layer that looks up the ids, `model.get_input_embeddings()`; below DDP or FSDP as well.
        epsilon: length of the step, in units of the embeddings.
        norm: what moves by `epsilon`. "token": each token. "sample": each row of the batch; with flat input (1, T), as
            `CoSENTModel` takes it, that is everything, so use "token" there. "batch": the whole batch of all ranks.
            "matrix": the embedding matrix, every occurrence of a token alike, also across ranks.
        include_clean: return the sum of the clean and the disturbed loss.

    Returns:
        Scalar. Where the gradient is 0 or not finite nothing moves.

    Raises:
        ValueError: the embedding was not called or was inside a checkpointed region, a length is negative or not
            finite, or an unknown norm.
    """
    return pgd(
        compute_loss, embedding, epsilon=epsilon, step_size=epsilon, num_steps=1, norm=norm, include_clean=include_clean
    )


def pgd(
    compute_loss: Callable[[], Tensor],
    embedding: nn.Module,
    *,
    epsilon: float = 0.5,
    step_size: float = 0.3,
    num_steps: int = 3,
    norm: Norm = "sample",
    include_clean: bool = False,
) -> Tensor:
    """`fgm` in `num_steps` steps of length `step_size`, each followed by a projection into the ball of `epsilon`.

    Costs num_steps + 1 forwards and backwards. Arguments, result and errors as `fgm`.
    """
    if num_steps < 1:
        raise ValueError(f"pgd: num_steps must be at least 1, not {num_steps}")
    check_size("epsilon", epsilon)
    check_size("step_size", step_size)
    check_norm(norm)
    disturbance, clean = Disturbance(embedding, table=norm == "matrix"), None
    for step in range(1, num_steps + 1):
        with disturbance.added():
            loss = compute_loss()
        if clean is None:
            clean = loss
        gradients = disturbance.gradients(loss, retain_graph=include_clean and clean is loss)
        moves = rescaled(gradients, step_size, norm)
        moved = [delta.detach() + move for delta, move in zip(disturbance.deltas, moves, strict=True)]
        sizes = lengths(moved, norm)
        projected = [torch.where(size > epsilon, epsilon / size, 1.0) * d for d, size in zip(moved, sizes, strict=True)]
        disturbance.set(projected, final=step == num_steps)
    with disturbance.added():
        loss = compute_loss()
    return clean + loss if include_clean and clean is not None else loss
