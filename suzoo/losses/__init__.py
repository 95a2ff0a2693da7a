"""Losses: functions of scores (or logits) and labels, nothing else."""

from suzoo.losses.angle import angle_scores
from suzoo.losses.chunked import chunked_loss
from suzoo.losses.contrastive import contrastive_logits, contrastive_loss, supcon_loss
from suzoo.losses.cosent import cosent_loss
from suzoo.losses.cross_entropy import cross_entropy_loss
from suzoo.losses.distillation import cosine_distillation_loss, relation_distillation_loss
from suzoo.losses.f1 import RunningF1, dice_loss, f1_weighted_bce
from suzoo.losses.flat_nce import flat_nce_loss
from suzoo.losses.flooding import alternating_flooding, flooding
from suzoo.losses.focal import binary_focal_loss, focal_loss, soft_truncation_loss
from suzoo.losses.heat_equation import heat_equation_loss, heat_extrapolate, heat_interpolate
from suzoo.losses.logit_adjustment import class_balanced_weights, class_log_prior, logit_adjusted_cross_entropy
from suzoo.losses.margin_softmax import CosineLinear, am_softmax_loss, arcface_loss, estimate_margin, metric_distance
from suzoo.losses.multilabel import (
    global_pointer_divergence,
    multilabel_cross_entropy,
    sparse_multilabel_cross_entropy,
)
from suzoo.losses.rdrop import rdrop_loss, rdrop_sum, symmetric_kl
from suzoo.losses.softmax_pair import SoftmaxPairLoss
from suzoo.losses.tailr import gamma_cross_entropy, tailr_loss

__all__ = [
    "CosineLinear",
    "RunningF1",
    "SoftmaxPairLoss",
    "alternating_flooding",
    "am_softmax_loss",
    "angle_scores",
    "arcface_loss",
    "binary_focal_loss",
    "chunked_loss",
    "class_balanced_weights",
    "class_log_prior",
    "contrastive_logits",
    "contrastive_loss",
    "cosent_loss",
    "cosine_distillation_loss",
    "cross_entropy_loss",
    "dice_loss",
    "estimate_margin",
    "f1_weighted_bce",
    "flat_nce_loss",
    "flooding",
    "focal_loss",
    "gamma_cross_entropy",
    "global_pointer_divergence",
    "heat_equation_loss",
    "heat_extrapolate",
    "heat_interpolate",
    "logit_adjusted_cross_entropy",
    "metric_distance",
    "multilabel_cross_entropy",
    "rdrop_loss",
    "rdrop_sum",
    "relation_distillation_loss",
    "soft_truncation_loss",
    "sparse_multilabel_cross_entropy",
    "supcon_loss",
    "symmetric_kl",
    "tailr_loss",
]
