"""Flooding: keep the training loss from falling below a level.

Sources: Ishida et al., arXiv 2002.08709; Su, "我们真的需要把训练集的损失降低到零吗？", kexue.fm/archives/7643.
"""

from __future__ import annotations

from torch import Tensor

from suzoo.distributed import all_reduce_mean


def flooding(loss: Tensor, level: float, *, step_loss: Tensor | None = None) -> Tensor:
    """|loss - level| + level: below the level the gradient is reversed, at the level it is 0.

    Apply it last, to the mean loss of the whole batch. Under DDP the sign is that of the mean over ranks, so that the
    averaged gradient is the single-process one; a sign per rank would be another method.

    Args:
        loss: the scalar mean loss of this rank's rows; or (N,) losses per sample (iFlood), each with its own sign. One
            divided by the `num_items` of other micro-batches or ranks too is only a share of the mean, soon below any
            level: it needs `step_loss`.
        level: b, in units of the loss, chosen on validation data. Around it, descent and ascent alternate, which
            descends on the squared gradient norm.
        step_loss: under accumulation, the mean loss of the whole step on this rank, whose sign all micro-batches must
            share (from a first pass without gradient, or of the previous step).

    Returns:
        Same shape as `loss`. Report the loss itself too.
    """
    if loss.dim() > 0:
        return (loss - level).abs() + level
    reference = all_reduce_mean(loss if step_loss is None else step_loss)
    return (reference - level).sign() * (loss - level) + level


def alternating_flooding(loss: Tensor, step: int, *, ratio: float = 0.5) -> Tensor:
    """Flooding without a level: descend on even steps, ascend on odd ones with `ratio` times the learning rate.

    A pair of SGD steps with rates e > r e descends on loss + e r / (2 (1 - r)) * squared gradient norm with rate
    e (1 - r) (kexue.fm/archives/7643, whose author finds a gradient penalty better). That holds for SGD: in Adam's
    moments the signs mix.
    """
    if not 0 <= ratio < 1:
        raise ValueError(f"alternating_flooding: ratio must be in [0, 1), not {ratio}")
    return loss if step % 2 == 0 else -ratio * loss
