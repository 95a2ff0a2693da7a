"""Recipes of train_classifier.py. Each docstring holds its command; training/LOG.md has the runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from recipes._regularizers import Regularized
from suzoo.losses import (
    RunningF1,
    binary_focal_loss,
    class_balanced_weights,
    class_log_prior,
    cross_entropy_loss,
    dice_loss,
    f1_weighted_bce,
    focal_loss,
    logit_adjusted_cross_entropy,
    multilabel_cross_entropy,
)

CITED = {
    "focal": "focal_loss",
    "logit_adjustment": "logit_adjusted_cross_entropy",
    "class_balanced": "class_balanced_weights",
    "f1": "f1_weighted_bce",
    "dice": "dice_loss",
    "multilabel": "multilabel_cross_entropy",
}


@dataclass(frozen=True, kw_only=True)
class Classification(Regularized):
    loss: str = "ce"
    """Name in the script's table. One class per text: ce, focal, logit_adjustment, class_balanced, f1, dice. Several:
    bce, multilabel, focal, f1, dice."""
    label_smoothing: float = 0.0
    """ce only: share of the target given to all classes alike."""
    gamma: float = 2.0
    """focal only: how much less counts what is right already."""
    tau: float = 1.0
    """logit_adjustment only: weight of the logarithm of the class frequencies."""
    beta: float = 0.999
    """class_balanced only: 0 weights all classes alike, near 1 by inverse frequency."""
    f1_momentum: float = 0.99
    """f1 only: weight of the past in the running F1 of each class."""
    post_hoc_tau: float = 0.0
    """Report the dev scores also with this times the logarithm of the class frequencies taken off the logits."""
    tail_below: int = 100
    """Classes with fewer training rows are the tail that tail_f1 is reported on."""
    monitor: str = "macro_f1"
    """The dev score by which the best weights are chosen."""

    @property
    def cited(self) -> list[str]:
        return [*([CITED[self.loss]] if self.loss in CITED else []), *super().cited]

    def choose_loss(
        self, counts: Tensor, running_f1: RunningF1, *, several: bool
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """(logits (B, C), targets) -> scalar: the loss of that name.

        Args:
            counts: (C,) training rows of each class.
            running_f1: for the loss f1.
            several: a text may have several classes, and the targets are (B, C) of 0 and 1; else class numbers (B,).
        """

        def class_balanced(
            z: Tensor, y: Tensor
        ) -> Tensor:  # divided by the rows, as parts of a step have other weights
            weights = class_balanced_weights(counts, beta=self.beta).to(z.device)
            return (weights[y] * cross_entropy_loss(z, y, reduction="none")).mean()

        def one_hot(z: Tensor, y: Tensor) -> Tensor:
            return y if several else F.one_hot(y, z.shape[-1])

        log_prior = class_log_prior(counts)
        losses: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
            "f1": lambda z, y: f1_weighted_bce(z, one_hot(z, y), f1=running_f1(z, one_hot(z, y))),
            "dice": lambda z, y: dice_loss(z, one_hot(z, y)),
        }
        if several:
            losses |= {
                "bce": F.binary_cross_entropy_with_logits,
                "multilabel": multilabel_cross_entropy,
                "focal": lambda z, y: binary_focal_loss(z, y, gamma=self.gamma),
            }
        else:
            losses |= {
                "ce": lambda z, y: cross_entropy_loss(z, y, label_smoothing=self.label_smoothing),
                "focal": lambda z, y: focal_loss(z, y, gamma=self.gamma),
                "logit_adjustment": lambda z, y: logit_adjusted_cross_entropy(z, y, log_prior.to(z), tau=self.tau),
                "class_balanced": class_balanced,
            }
        if self.loss not in losses:
            kind = "texts of several classes" if several else "texts of one class"
            raise ValueError(f"--loss {self.loss} is none of {', '.join(losses)}, which there are for {kind}")
        if self.loss == "dice" and self.micro_batches > 1:
            raise ValueError("--loss dice is a ratio over the whole step: use --micro-batches 1")
        return losses[self.loss]


def quickstart() -> Classification:
    """accelerate launch training/train_classifier.py quickstart

    A small classifier from scratch on the embedded Chinese requests (synthetic): ten classes, the rarest a fortieth of
    the most frequent. Dev macro F1 .730; --loss ce gives .669, its logits adjusted afterwards (--post-hoc-tau 1) .784,
    --loss class_balanced .912.
    """
    return Classification(
        output_dir="out/classifier",
        data="embedded:classes_zh",
        loss="logit_adjustment",
        hidden_size=128,
        num_layers=2,
        lr=1e-3,
        epochs=4,
    )


def finetune() -> Classification:
    """accelerate launch training/train_classifier.py finetune --model hfl/chinese-macbert-base --data texts.jsonl

    The setting of the blog's runs on TNEWS and IFLYTEK (kexue.fm/archives/8496): 2e-5, batches of 32 texts.
    """
    return Classification(output_dir="out/classifier", data="embedded:classes_zh", epochs=5, max_length=128)


def scratch() -> Classification:
    """accelerate launch training/train_classifier.py scratch --data texts.jsonl --dev dev.jsonl

    A small classifier on your own texts, without a pretrained model.
    """
    return Classification(output_dir="out/classifier", data="embedded:classes_zh", lr=5e-4, epochs=10)


RECIPES = {"quickstart": quickstart, "finetune": finetune, "scratch": scratch}
