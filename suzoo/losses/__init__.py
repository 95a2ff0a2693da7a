"""Losses: functions of scores (or logits) and labels, nothing else."""

from suzoo.losses.angle import angle_scores
from suzoo.losses.contrastive import contrastive_logits, contrastive_loss, supcon_loss
from suzoo.losses.cosent import cosent_loss
from suzoo.losses.cross_entropy import cross_entropy_loss
from suzoo.losses.flat_nce import flat_nce_loss
from suzoo.losses.margin_softmax import CosineLinear, am_softmax_loss, arcface_loss, estimate_margin, metric_distance
from suzoo.losses.multilabel import (
    global_pointer_divergence,
    multilabel_cross_entropy,
    sparse_multilabel_cross_entropy,
)
from suzoo.losses.rdrop import rdrop_loss, symmetric_kl
from suzoo.losses.softmax_pair import SoftmaxPairLoss
from suzoo.losses.tailr import gamma_cross_entropy, tailr_loss

__all__ = [
    "CosineLinear",
    "am_softmax_loss",
    "angle_scores",
    "arcface_loss",
    "contrastive_logits",
    "contrastive_loss",
    "cosent_loss",
    "cross_entropy_loss",
    "estimate_margin",
    "flat_nce_loss",
    "gamma_cross_entropy",
    "global_pointer_divergence",
    "metric_distance",
    "multilabel_cross_entropy",
    "rdrop_loss",
    "sparse_multilabel_cross_entropy",
    "supcon_loss",
    "symmetric_kl",
    "tailr_loss",
]
