"""Losses: functions of scores (or logits) and labels, nothing else."""

from suzoo.losses.cosent import cosent_loss
from suzoo.losses.cross_entropy import cross_entropy_loss
from suzoo.losses.multilabel import (
    global_pointer_divergence,
    multilabel_cross_entropy,
    sparse_multilabel_cross_entropy,
)
from suzoo.losses.rdrop import rdrop_loss, symmetric_kl
from suzoo.losses.softmax_pair import SoftmaxPairLoss
from suzoo.losses.tailr import gamma_cross_entropy, tailr_loss

__all__ = [
    "SoftmaxPairLoss",
    "cosent_loss",
    "cross_entropy_loss",
    "gamma_cross_entropy",
    "global_pointer_divergence",
    "multilabel_cross_entropy",
    "rdrop_loss",
    "sparse_multilabel_cross_entropy",
    "symmetric_kl",
    "tailr_loss",
]
