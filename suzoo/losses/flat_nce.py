"""FlatNCE: the contrastive loss whose gradient does not fade when the negatives are far away.

Source: Chen et al., arXiv 2107.01152; Su, kexue.fm/archives/8586. Shapes: N anchors, M candidates.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from suzoo.losses._common import Reduction, check_class_labels, reduce_loss, safe_target, upcast


def flat_nce_loss(
    logits: Tensor,
    target: Tensor,
    *,
    form: Literal["log", "detach", "softplus"] = "log",
    reduction: Reduction = "mean",
    ignore_index: int = -100,
    num_items: int | Tensor | None = None,
) -> Tensor:
    r"""With v = logsumexp of the negatives - the positive, InfoNCE is log(1 + e^v) and FlatNCE is v.

    Every anchor pulls its positive with weight 1, however easy it is; InfoNCE with e^v / (1 + e^v). This is also DCL
    (arXiv 2110.06848), the positive left out of the denominator. Forms:

    - "log": v. May be negative.
    - "detach": the value of InfoNCE with the gradient of v, as the authors report it.
    - "softplus": not FlatNCE but InfoNCE without cancellation, the control experiment. `F.cross_entropy` loses the pull
      on the positive below v = -17 in float32 (-6 in bfloat16), where its probability rounds to 1. If FlatNCE helps
      and this does not, then the reweighting helps and not the precision.

    Args:
        logits: (N, M) scaled similarities, for example of `contrastive_logits`, in float32; -inf is no candidate.
        target: (N,) index of the positive.
        form: see above.
        reduction, ignore_index, num_items: as in `cross_entropy_loss`. A row without a negative is left out as well.

    Raises:
        ValueError: shapes do not fit, or an unknown form.
    """
    check_class_labels("flat_nce_loss", logits, target)
    if form not in ("log", "detach", "softplus"):
        raise ValueError(f"flat_nce_loss: form must be 'log', 'detach' or 'softplus', not {form!r}")
    logits = upcast(logits)
    index = safe_target(target, ignore_index)
    negatives = logits.scatter(-1, index, -torch.inf)
    keep = (target != ignore_index) & (negatives > -torch.inf).any(-1)
    # a row that is left out gets finite numbers: the logsumexp of nothing has no gradient
    positive = logits.gather(-1, index).squeeze(-1).masked_fill(~keep, 0.0)
    v = negatives.masked_fill(~keep[..., None], 0.0).logsumexp(-1) - positive
    if form == "softplus":
        losses = F.softplus(v)
    elif form == "detach":
        losses = v + (F.softplus(v) - v).detach()
    else:
        losses = v
    return reduce_loss(losses, keep, reduction, num_items)
