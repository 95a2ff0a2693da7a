"""The table of losses that tests/losses/test_common.py runs through the properties they all share."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from suzoo import losses

ROWS, CLASSES = 6, 5
LOG_PRIOR = losses.class_log_prior(torch.tensor([9, 5, 3, 0, 1]))


@dataclass(frozen=True)
class Case:
    """One loss: `loss(scores, labels, **options)` on what `scores()` and `labels()` draw."""

    loss: Callable
    scores: Callable = lambda: torch.randn(ROWS, CLASSES, dtype=torch.float64)
    labels: Callable = lambda: torch.arange(ROWS) % CLASSES
    ignored: int | None = -100  # the label that takes a row out; None where the loss has no ignore_index
    reduces: bool = True  # has reduction= and num_items=
    masked_class: bool = True  # a class at -inf is a class that is not there
    options: dict = field(default_factory=dict)
    detached: bool = False  # has a weight that is not differentiated, so the gradient is no derivative
    name: str = ""

    def __call__(self, scores, labels, **options):
        return self.loss(scores, labels, **self.options, **options)


def multi_hot() -> torch.Tensor:
    return ((torch.arange(ROWS)[:, None] + torch.arange(CLASSES)) % 3 == 0).long()


def adjusted(scores, labels, **options):
    return losses.logit_adjusted_cross_entropy(scores, labels, LOG_PRIOR, **options)


def two_views() -> torch.Tensor:
    return torch.randn(ROWS, 2 * CLASSES, dtype=torch.float64)


def contrast(**options) -> Callable:
    """Contrastive losses take two views of each row, and here say which rows are duplicates."""
    return lambda scores, labels: losses.contrastive_loss(*scores.chunk(2, -1), ids=labels, **options)


def distilled(loss: Callable) -> Callable:
    """Distillation looks at two vectors of each row: half of the numbers are the student's, half the teacher's."""
    return lambda scores, labels, **options: loss(*scores.chunk(2, -1), **options)


def angle_cosent(scores, labels):
    return losses.cosent_loss(losses.angle_scores(*scores.chunk(2, -1)), labels)


def two_passes(scores, labels, **options):
    """R-Drop sees two score tensors: the second is the first at twice the temperature, which no dtype rounds."""
    return losses.rdrop_loss(scores, scores / 2, labels, **options)


CASES = [
    Case(losses.cosent_loss, lambda: torch.rand(ROWS).double(), ignored=None, reduces=False, masked_class=False),
    Case(losses.cross_entropy_loss),
    Case(losses.cross_entropy_loss, options={"label_smoothing": 0.1, "z_loss": 1e-2}, name="smoothed"),
    Case(losses.tailr_loss, options={"gamma": 0.1, "min_weight": 0.3, "label_smoothing": 0.1}, detached=True),
    Case(losses.gamma_cross_entropy, options={"gamma": 0.0}, name="gamma_0"),
    Case(losses.gamma_cross_entropy, options={"gamma": 0.1}, name="gamma_0.1"),
    Case(losses.gamma_cross_entropy, options={"gamma": 0.8}, name="gamma_0.8"),
    Case(losses.gamma_cross_entropy, options={"gamma": 1.0}, name="gamma_1"),
    Case(losses.multilabel_cross_entropy, labels=multi_hot, ignored=None),
    Case(losses.multilabel_cross_entropy, labels=lambda: torch.rand(ROWS, CLASSES), ignored=None, name="soft"),
    Case(
        losses.sparse_multilabel_cross_entropy,
        labels=lambda: torch.tensor([[0, 2], [1, -1], [-1, -1], [3, 3], [4, 0], [2, 1]]),
        ignored=None,
    ),
    Case(losses.focal_loss),
    Case(losses.focal_loss, options={"gamma": 0.5}, name="focal_gamma_0.5"),
    Case(losses.binary_focal_loss, labels=multi_hot, masked_class=False, options={"alpha": 0.25}),
    Case(losses.soft_truncation_loss, labels=multi_hot, masked_class=False),
    Case(losses.soft_truncation_loss, labels=multi_hot, masked_class=False, options={"slope": math.inf}, name="hard"),
    Case(losses.f1_weighted_bce, labels=multi_hot, masked_class=False, options={"f1": 0.3}),
    Case(losses.f1_weighted_bce, labels=multi_hot, masked_class=False, reduces=False, detached=True, name="batch_f1"),
    Case(losses.dice_loss, labels=multi_hot, masked_class=False, reduces=False),
    Case(losses.dice_loss, labels=multi_hot, masked_class=False, reduces=False, options={"smoothing": 0}, name="dice"),
    Case(adjusted, masked_class=False),
    Case(losses.am_softmax_loss),
    Case(losses.arcface_loss, lambda: torch.rand(ROWS, CLASSES).double() * 1.8 - 0.9),
    Case(losses.flat_nce_loss),
    Case(losses.flat_nce_loss, options={"form": "softplus"}, name="softplus_nce"),
    Case(contrast(), two_views, lambda: torch.tensor([0, 1, 2, 0, 4, 5]), None, False, False, name="contrastive_cross"),
    Case(contrast(negatives="all"), two_views, lambda: torch.arange(ROWS), None, False, False, name="contrastive_all"),
    Case(losses.supcon_loss, labels=lambda: torch.tensor([0, 1, 0, 1, 1, 7]), reduces=False, masked_class=False),
    Case(
        angle_cosent,
        lambda: torch.randn(ROWS, 4 * CLASSES, dtype=torch.float64),
        ignored=None,
        reduces=False,
        masked_class=False,
    ),
    Case(two_passes, name="rdrop_loss"),
    Case(
        distilled(losses.cosine_distillation_loss),
        two_views,
        ignored=None,
        masked_class=False,
        detached=True,  # of the teacher
        name="cosine_distillation",
    ),
    Case(
        distilled(losses.relation_distillation_loss),
        two_views,
        ignored=None,
        reduces=False,
        masked_class=False,
        detached=True,
        name="relation_distillation",
    ),
]


def case_id(case: Case) -> str:
    return case.name or case.loss.__name__
