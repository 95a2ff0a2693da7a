"""In-batch contrastive losses on embeddings: SimCSE in both definitions, supervised, with hard negatives; SupCon.

Sources: SimCSE, arXiv 2104.08821; Su, kexue.fm/archives/8348 (SimBERT form: 7427); SupCon, arXiv 2004.11362.
Shapes: B rows of this rank, G rows of all ranks, K hard negatives per row, D features, N anchors, M candidates.

The losses gather the candidates of all ranks themselves and keep the anchors local: under DDP, which averages the
gradients, that is exactly the single-process loss. All ranks must call them together.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from suzoo import distributed
from suzoo.losses._common import check_scale, cosine_matrix


def contrastive_logits(
    anchors: Tensor,
    positives: Tensor,
    *,
    hard_negatives: Tensor | None = None,
    hard_negative_weight: float = 0.0,
    scale: float = 20.0,
    negatives: Literal["cross", "all"] = "cross",
    ids: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Scaled cosines (N, M) and the index (N,) of each row's positive: what `F.cross_entropy` or `flat_nce_loss` takes.

    Two losses go by the name SimCSE. "cross" is the authors': each anchor against the positives of all rows, one
    direction (N = B). "all" is that of SimBERT and kexue.fm: each of the 2B vectors against all others, both directions
    (N = 2B, the anchors first).

    Args:
        anchors, positives: (B, D) of this rank, not normalized; unsupervised SimCSE passes two dropout views.
        hard_negatives: (B, D) or (B, K, D); every row sees those of all rows.
        hard_negative_weight: added to the logit of a row's own hard negatives, so a logarithm of a weight.
        scale: inverse temperature, 20 for SimCSE, 30 for SimBERT.
        negatives: "cross" or "all".
        ids: (B,) or (B, I) integers, such as a hash of each text: rows that agree in any column say the same and are
            not negatives of each other, also across ranks.

    Raises:
        ValueError: shapes differ, scale is not positive, or an unknown `negatives`.
    """
    check_scale("contrastive_logits", scale)
    if anchors.dim() != 2 or anchors.shape != positives.shape:
        raise ValueError(
            f"contrastive_logits takes anchors and positives (B, D), not {(*anchors.shape,)} and {(*positives.shape,)}"
        )
    if negatives not in ("cross", "all"):
        raise ValueError(f"contrastive_logits: negatives must be 'cross' or 'all', not {negatives!r}")
    size = len(anchors)
    if ids is not None and (ids.shape[:1] != (size,) or ids.dim() > 2):
        raise ValueError(f"contrastive_logits takes ids ({size},) or ({size}, I), not {(*ids.shape,)}")
    if hard_negatives is not None and (
        hard_negatives.shape[:1] != (size,) or hard_negatives.shape[-1:] != anchors.shape[-1:]
    ):
        raise ValueError(
            f"contrastive_logits takes hard_negatives (B, D) or (B, K, D) with B, D = {(*anchors.shape,)}, "
            f"not {(*hard_negatives.shape,)}"
        )
    ids_BI = ids[:, None] if ids is not None and ids.dim() == 1 else ids
    hard_BKD = hard_negatives[:, None] if hard_negatives is not None and hard_negatives.dim() == 2 else hard_negatives
    wanted = {"positives": positives}
    if ids_BI is not None:
        wanted["ids"] = ids_BI
    if hard_BKD is not None:
        wanted["hard"] = hard_BKD
    if negatives == "all":
        wanted["anchors"] = anchors
    # all at once: how many rows a rank has is asked of the device once
    gathered, first_row = distributed.gather_placed(*wanted.values())
    of_all = dict(zip(wanted, gathered, strict=True))
    all_positives_GD = of_all["positives"]
    rows_B = torch.arange(size, device=anchors.device) + first_row
    columns_G = torch.arange(len(all_positives_GD), device=anchors.device)

    is_self_BG = rows_B[:, None] == columns_G
    duplicate_BG = torch.zeros_like(is_self_BG)
    if ids_BI is not None:
        duplicate_BG = (ids_BI[:, None] == of_all["ids"]).any(-1) & ~is_self_BG

    if negatives == "cross":
        logits_NM = cosine_matrix(anchors, all_positives_GD) * scale
        if ids is not None:
            logits_NM = logits_NM.masked_fill(duplicate_BG, -torch.inf)
        target_N = rows_B
    else:
        both_ND = torch.cat([anchors, positives])
        candidates_MD = torch.cat([of_all["anchors"], all_positives_GD])
        other_side = torch.cat([duplicate_BG, duplicate_BG], 1)  # row i is no negative in either view
        own_side = torch.cat([is_self_BG, torch.zeros_like(is_self_BG)], 1)
        masked_NM = torch.cat([other_side | own_side, other_side | own_side.roll(len(columns_G), 1)])
        logits_NM = (cosine_matrix(both_ND, candidates_MD) * scale).masked_fill(masked_NM, -torch.inf)
        target_N = torch.cat([rows_B + len(columns_G), rows_B])

    if hard_BKD is not None:
        num_hard = hard_BKD.shape[1]
        views_ND = anchors if negatives == "cross" else torch.cat([anchors, positives])
        hard_NM = cosine_matrix(views_ND, of_all["hard"].flatten(0, 1)) * scale
        own = is_self_BG.repeat_interleave(num_hard, 1).repeat(len(views_ND) // max(size, 1), 1)
        logits_NM = torch.cat([logits_NM, hard_NM + hard_negative_weight * own], 1)
    return logits_NM, target_N


def contrastive_loss(
    anchors: Tensor,
    positives: Tensor,
    *,
    hard_negatives: Tensor | None = None,
    hard_negative_weight: float = 0.0,
    scale: float = 20.0,
    negatives: Literal["cross", "all"] = "cross",
    ids: Tensor | None = None,
) -> Tensor:
    """InfoNCE on `contrastive_logits` (which documents the arguments): mean cross-entropy of finding the positive.

    Returns:
        Scalar, float32 at least. Across ranks: this rank's share, scaled so that the mean over ranks is the mean over
        all rows, also when ranks hold unequal numbers of rows.
    """
    logits_NM, target_N = contrastive_logits(
        anchors,
        positives,
        hard_negatives=hard_negatives,
        hard_negative_weight=hard_negative_weight,
        scale=scale,
        negatives=negatives,
        ids=ids,
    )
    losses_N = F.cross_entropy(logits_NM, target_N, reduction="none")
    return losses_N.sum() / _mean_count(losses_N.new_full((), len(losses_N)))


def supcon_loss(embeddings: Tensor, labels: Tensor, *, scale: float = 10.0, ignore_index: int = -100) -> Tensor:
    r"""Supervised contrastive loss: rows of one class attract each other (L_out of the paper).

    .. math:: L = -\operatorname{mean}_i \frac{1}{|P(i)|} \sum_{p \in P(i)} \log\operatorname{softmax}_{a \ne i}(s_{ip})

    Args:
        embeddings: (B, D) of this rank, not normalized.
        labels: (B,) classes.
        scale: inverse temperature; the paper's 0.1 is 10.
        ignore_index: rows of this label are neither anchors nor candidates.

    Returns:
        Scalar, the mean over the anchors that have a positive on any rank; an attached 0 if none has.

    Raises:
        ValueError: shapes differ, or scale is not positive.
    """
    check_scale("supcon_loss", scale)
    if embeddings.dim() != 2 or embeddings.shape[:1] != labels.shape:
        raise ValueError(
            f"supcon_loss takes embeddings (B, D) and labels (B,), not {(*embeddings.shape,)} and {(*labels.shape,)}"
        )
    (all_GD, labels_G), first_row = distributed.gather_placed(embeddings, labels)
    rows_B = torch.arange(len(labels), device=labels.device) + first_row
    is_self_BG = rows_B[:, None] == torch.arange(len(labels_G), device=labels.device)
    positive_BG = (labels[:, None] == labels_G) & ~is_self_BG & (labels != ignore_index)[:, None]
    count_B = positive_BG.sum(1)
    keep_B = count_B > 0

    scores_BG = (cosine_matrix(embeddings, all_GD) * scale).masked_fill(
        is_self_BG | (labels_G == ignore_index), -torch.inf
    )
    # an anchor without a positive may have no candidate at all: give it finite numbers and leave it out
    log_p_BG = scores_BG.masked_fill(~keep_B[:, None], 0.0).log_softmax(1)
    losses_B = -torch.where(positive_BG, log_p_BG, 0.0).sum(1) / count_B.clamp_min(1)
    return losses_B.sum() / _mean_count(keep_B.sum())


def _mean_count(count: Tensor) -> Tensor:
    """Divisor of this rank's sum that makes the mean over ranks the mean over all rows."""
    return distributed.all_reduce_sum(count).clamp_min(1) / distributed.world_size()
