"""What the losses share: the precision they compute in, the masked reduction, and the target's log-probability."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Reduction = Literal["mean", "sum", "none"]


def upcast(values: Tensor) -> Tensor:
    """float32, or float64 if it is float64 already. Before any scaling: bfloat16 times 20 loses whole nats."""
    return values if values.dtype == torch.float64 else values.float()


def upcast_finite(values: Tensor) -> Tensor:
    """`upcast` with infinities replaced by ±1e30, for losses that would meet 0 * inf. They get no gradient."""
    return upcast(values).nan_to_num(nan=torch.nan, posinf=1e30, neginf=-1e30)


def is_traced() -> bool:
    """Values are not there yet, so that nothing can be decided by them: `torch.compile`, `torch.func`'s transforms."""
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()


def can_look(tensor: Tensor) -> bool:
    """A decision on the values of a tensor neither breaks a graph nor waits for an accelerator."""
    return tensor.device.type == "cpu" and not is_traced()


def upcast_kept(logits: Tensor, labels: Tensor, ignore_index: int, num_ignored: int | None = None) -> Tensor:
    """`upcast` of logits (..., C) that gives the rows that labels (...) ignore no gradient, also where they are -inf
    throughout: their softmax is NaN, and so is 0 times it in the backward. `num_ignored` is how many, if known."""
    if num_ignored == 0:
        return upcast(logits)
    ignored = labels == ignore_index
    # where a look does not wait, it is cheaper than a pass over the gradients
    if can_look(logits) and not (bool(ignored.any()) and bool((logits[..., 0] == -torch.inf).any())):
        return upcast(logits)
    if is_traced():  # compiled, one kernel with what follows
        return upcast(logits.masked_fill(ignored[..., None], 0.0))
    return _WithoutGradient.apply(upcast(logits), ignored)


class _WithoutGradient(torch.autograd.Function):
    """Rows (...) of values (..., C) without gradient; no copy of the values, nor, but for a second derivative, of the
    gradients."""

    @staticmethod
    def forward(ctx, values: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        return values.view_as(values)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        (rows,) = ctx.saved_tensors
        fill = grad.masked_fill if torch.is_grad_enabled() else grad.masked_fill_
        return fill(rows[..., None], 0.0), None


def reduce_loss(losses: Tensor, keep: Tensor | None, reduction: Reduction, num_items: int | Tensor | None) -> Tensor:
    """Sum, mean or all of `losses` where `keep` (same shape, None keeps all); the others are 0 and get no gradient.

    The mean divides by `num_items` if given (the count over all micro-batches and ranks), else by the number kept.
    Nothing kept gives a zero that is attached to the graph, also where `num_items` is 0.
    """
    if keep is not None:
        losses = torch.where(keep, losses, 0.0)
    if reduction == "none":
        _check_reduction(reduction, num_items)
        return losses
    return divide_by_count(losses.sum(), losses if keep is None else keep, reduction, num_items)


def divide_by_count(total: Tensor, counted: Tensor, reduction: Reduction, num_items: int | Tensor | None) -> Tensor:
    """What `reduce_loss` makes of the sum of the losses; `counted` says which are kept, or has one element for each."""
    _check_reduction(reduction, num_items)
    if reduction == "sum":
        return total
    if num_items is None:
        num_items = counted.sum() if counted.dtype == torch.bool else counted.numel()
    # a count of 0 divides by 1: nothing was summed, or it is a count of positives
    return total / (num_items.masked_fill(num_items == 0, 1) if isinstance(num_items, Tensor) else num_items or 1)


def _check_reduction(reduction: str, num_items: int | Tensor | None) -> None:
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction must be 'mean', 'sum' or 'none', not {reduction!r}")
    if num_items is not None and reduction != "mean":
        raise ValueError(f"num_items is the divisor of reduction='mean'; it means nothing with {reduction!r}")


def check_options(name: str, *, most: float = math.inf, **values: float | Tensor) -> None:
    """Each option is a number in [0, most] and not NaN. A tensor is not looked at: reading it would wait for
    its device."""
    for key, value in values.items():
        if not isinstance(value, Tensor) and not 0 <= value <= most:
            bounds = "at least 0" if most == math.inf else f"in [0, {most:g}]"
            raise ValueError(f"{name}: {key} must be {bounds}, not {value}")


def check_scale(name: str, scale: float | Tensor) -> None:
    """A negative one would turn the loss around. A learnt one is a tensor and not looked at: reading it would wait for
    its device."""
    if not isinstance(scale, Tensor) and not 0 < scale < math.inf:
        raise ValueError(f"{name}: scale must be positive and finite, not {scale}")


def check_class_labels(name: str, logits: Tensor, labels: Tensor) -> None:
    if logits.dim() == 0 or logits.shape[:-1] != labels.shape:
        raise ValueError(
            f"{name} takes logits (..., C) and labels (...), not {(*logits.shape,)} and {(*labels.shape,)}; "
            "for a causal LM pass logits[:, :-1] and labels[:, 1:]"
        )


def check_targets(name: str, logits: Tensor, targets: Tensor) -> None:
    if logits.shape != targets.shape:
        raise ValueError(
            f"{name} takes logits and targets of one shape, not {(*logits.shape,)} and {(*targets.shape,)}"
        )


def binary_margin(name: str, logits: Tensor, targets: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """The logits towards the right side of targets 0 and 1, finite, and where the target is 1.

    Another target, but for `ignore_index`, is refused where a look costs nothing and makes the margin NaN elsewhere.
    """
    check_targets(name, logits, targets)
    positive = targets == 1
    valid = positive | (targets == 0) | (targets == ignore_index)
    if can_look(targets) and not bool(valid.all()):
        raise ValueError(f"{name}: targets must be 0, 1 or ignore_index ({ignore_index}); it takes no soft targets")
    logits = upcast_finite(logits)
    return torch.where(valid, torch.where(positive, logits, -logits), torch.nan), positive


def target_nll(logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
    """(...) minus the log-probability of the target from logits (..., C); 0 where ignored."""
    if labels.dim() == 1:
        return F.cross_entropy(logits, labels, ignore_index=ignore_index, reduction="none")
    flat = F.cross_entropy(
        logits.reshape(-1, logits.shape[-1]), labels.reshape(-1), ignore_index=ignore_index, reduction="none"
    )
    return flat.view(labels.shape)


def safe_target(labels: Tensor, ignore_index: int) -> Tensor:
    """(..., 1) labels for gather and scatter, 0 where ignored."""
    return torch.where(labels == ignore_index, 0, labels)[..., None]


def target_and_uniform_nll(logits: Tensor, labels: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """`target_nll`, and the mean over all classes of minus their log-probability (classes at -inf left out)."""
    log_p = logits.log_softmax(-1)
    nll = F.nll_loss(
        log_p.reshape(-1, logits.shape[-1]), labels.reshape(-1), ignore_index=ignore_index, reduction="none"
    )
    uniform = -log_p.mean(-1)
    if not can_look(uniform) or not bool(uniform.isfinite().all()):  # looking is cheaper than masking
        finite = log_p != -torch.inf
        uniform = -torch.where(finite, log_p, 0.0).sum(-1) / finite.sum(-1).clamp_min(1)
    return nll.view(labels.shape), uniform


def cosine_matrix(rows_ND: Tensor, columns_MD: Tensor) -> Tensor:
    """(N, M) cosines in float32 at least, also under autocast, which would multiply in low precision."""
    with torch.autocast(rows_ND.device.type, enabled=False):
        return F.normalize(upcast(rows_ND), dim=-1) @ F.normalize(upcast(columns_MD), dim=-1).T
