"""What --loss names: a function of what a model says and what is true."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from recipes.classifier import Classification
from recipes.contrastive import Contrastive
from recipes.language_model import LanguageModelTraining
from recipes.step import rdrop_of_tokens
from recipes.unilm import UniLM

import torch
import torch.nn.functional as F
from torch import Tensor

from suzoo.data import Classified, class_numbers
from suzoo.losses import (
    RunningF1,
    binary_focal_loss,
    class_balanced_weights,
    class_log_prior,
    contrastive_logits,
    contrastive_loss,
    cross_entropy_loss,
    dice_loss,
    f1_weighted_bce,
    flat_nce_loss,
    focal_loss,
    logit_adjusted_cross_entropy,
    multilabel_cross_entropy,
    supcon_loss,
    tailr_loss,
)


def class_targets(rows: Sequence[Classified], names: Sequence[str], source: str, *, several: bool) -> Tensor:
    """Class numbers (n,); where a text may have several classes (n, C) of 0 and 1."""
    hot = torch.zeros(len(rows), len(names))
    for i, numbers in enumerate(class_numbers(rows, names, source)):
        hot[i, numbers] = 1.0
    return hot if several else hot.argmax(1)


def choose_class_loss(
    recipe: Classification, counts: Tensor, running_f1: RunningF1, *, several: bool
) -> Callable[[Tensor, Tensor], Tensor]:
    """(logits (B, C), targets) -> scalar: the loss of that name.

    Args:
        counts: (C,) training rows of each class.
        running_f1: for the loss f1.
        several: a text may have several classes, and the targets are (B, C) of 0 and 1; else class numbers (B,).
    """

    def class_balanced(z: Tensor, y: Tensor) -> Tensor:  # divided by the rows, as parts of a step have other weights
        weights = class_balanced_weights(counts, beta=recipe.beta).to(z.device)
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
            "focal": lambda z, y: binary_focal_loss(z, y, gamma=recipe.gamma),
        }
    else:
        losses |= {
            "ce": lambda z, y: cross_entropy_loss(z, y, label_smoothing=recipe.label_smoothing),
            "focal": lambda z, y: focal_loss(z, y, gamma=recipe.gamma),
            "logit_adjustment": lambda z, y: logit_adjusted_cross_entropy(z, y, log_prior.to(z), tau=recipe.tau),
            "class_balanced": class_balanced,
        }
    if recipe.loss not in losses:
        kind = "texts of several classes" if several else "texts of one class"
        raise ValueError(f"--loss {recipe.loss} is none of {', '.join(losses)}, which there are for {kind}")
    return losses[recipe.loss]


def choose_token_loss(recipe: LanguageModelTraining) -> Callable[..., Tensor]:
    """(logits (N, V), labels (N,), reduction=) -> loss: TaiLr, R-Drop or smoothed cross-entropy, as the flags say."""
    if isinstance(recipe, UniLM) and recipe.tailr:
        return partial(tailr_loss, gamma=recipe.tailr)
    if isinstance(recipe, UniLM) and recipe.rdrop:
        return partial(rdrop_of_tokens, alpha=recipe.rdrop)
    return partial(cross_entropy_loss, label_smoothing=recipe.label_smoothing)


def choose_contrastive_loss(recipe: Contrastive) -> Callable[[Tensor, Tensor], Tensor]:
    """(embeddings (B, texts of an example, D), numbers (B, 2) of which rows that agree in one are alike) -> scalar.

    All rows are this rank's; the losses gather those of others.
    """

    def supcon(embeddings: Tensor, numbers: Tensor) -> Tensor:
        return supcon_loss(embeddings[:, 0], numbers[:, 0], scale=recipe.scale)

    def logits(embeddings: Tensor, numbers: Tensor) -> dict[str, Any]:
        return {
            "anchors": embeddings[:, 0],
            "positives": embeddings[:, 1],
            "hard_negatives": embeddings[:, 2:] if embeddings.shape[1] > 2 else None,
            "hard_negative_weight": recipe.hard_negative_weight,
            "scale": recipe.scale,
            "negatives": recipe.negatives,
            "ids": None if recipe.keep_false_negatives else numbers,
        }

    def info_nce(embeddings: Tensor, numbers: Tensor) -> Tensor:
        return contrastive_loss(**logits(embeddings, numbers))

    def flat_nce(embeddings: Tensor, numbers: Tensor) -> Tensor:
        return flat_nce_loss(*contrastive_logits(**logits(embeddings, numbers)))

    # am_softmax has no batch to contrast with: its loss is the script's own
    return {"supcon": supcon, "info_nce": info_nce, "flat_nce": flat_nce, "am_softmax": supcon}[recipe.loss]
