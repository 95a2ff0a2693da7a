"""What --loss names: a function of what a model says and what is true."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from recipes.classifier import Classification
from recipes.distill import Distillation
from recipes.language_model import LanguageModelTraining
from recipes.loss_table import SENTENCE_LOSSES
from recipes.modules import PairClasses, by_example
from recipes.step import SentenceLoss, of_passes, preferences, rdrop_of_scores, rdrop_of_tokens
from recipes.unilm import UniLM

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from suzoo.data import Classified, class_numbers
from suzoo.distributed import gather, gather_all
from suzoo.losses import (
    CosineLinear,
    RunningF1,
    am_softmax_loss,
    angle_scores,
    binary_focal_loss,
    class_balanced_weights,
    class_log_prior,
    contrastive_logits,
    contrastive_loss,
    cosent_loss,
    cosine_distillation_loss,
    cross_entropy_loss,
    dice_loss,
    f1_weighted_bce,
    flat_nce_loss,
    focal_loss,
    logit_adjusted_cross_entropy,
    multilabel_cross_entropy,
    relation_distillation_loss,
    supcon_loss,
    tailr_loss,
)
from suzoo.models._devices import to_device


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
        weights = to_device(class_balanced_weights(counts, beta=recipe.beta), z.device)
        return (weights[y] * cross_entropy_loss(z, y, reduction="none")).mean()

    def one_hot(z: Tensor, y: Tensor) -> Tensor:
        return y if several else F.one_hot(y, z.shape[-1])

    def logit_adjusted(z: Tensor, y: Tensor) -> Tensor:
        return logit_adjusted_cross_entropy(z, y, to_device(log_prior, z.device).to(z), tau=recipe.tau)

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
            "logit_adjustment": logit_adjusted,
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


def choose_loss(recipe: Any, size: int, *, per_example: int = 2, num_classes: int = 2) -> SentenceLoss:
    """The loss of that name, of all in `recipes.loss_table`.

    Args:
        recipe: whose `loss` names it, and whose other fields are its options.
        size: of a sentence vector.
        per_example: texts of an example, which lie side by side in a batch.
        num_classes: of losses with a direction per class.

    The truth (B,) of pairs is their grades, for sbert class numbers; that of texts and queries (B, 2) has two numbers
    of each, and rows that agree in one of them are alike.
    """

    def vectors(module: nn.Module, inputs: dict[str, Any]) -> Tensor:
        """(B, texts of an example, D)."""
        return by_example(module(**inputs).sentence_embedding, per_example)

    def of_head(module: nn.Module, inputs: dict[str, Any]) -> Tensor:
        return module(**inputs)

    def scores(module: nn.Module, inputs: dict[str, Any]) -> Tensor:
        alike = angle_scores if recipe.loss == "angle" else F.cosine_similarity
        u, v = vectors(module, inputs).unbind(1)
        return alike(u, v)

    def ranked(local: Tensor, grades: Tensor) -> Tensor:  # only scores and grades travel between processes
        scores, labels = gather_all(local, grades)
        loss = partial(cosent_loss, labels=labels, scale=recipe.scale)
        return rdrop_of_scores(scores, loss, alpha=recipe.rdrop, scale=recipe.scale)

    def in_batch(found: Tensor, ids: Tensor) -> Tensor:
        terms = {
            "anchors": found[:, 0],
            "positives": found[:, 1],
            "hard_negatives": found[:, 2:] if per_example > 2 else None,
            "hard_negative_weight": recipe.hard_negative_weight,
            "scale": recipe.scale,
            "negatives": recipe.negatives,
            "ids": None if recipe.keep_false_negatives else ids,
        }
        if recipe.loss == "flat_nce":
            return flat_nce_loss(*contrastive_logits(**terms))
        return contrastive_loss(**terms)

    def made(outputs: Callable, of: Callable[[Tensor, Tensor], Tensor], **rest: Any) -> SentenceLoss:
        return SentenceLoss(outputs, of, SENTENCE_LOSSES[recipe.loss].over_step, **rest)

    match recipe.loss:
        case "cosent" | "angle":
            return made(
                lambda module, inputs: of_passes(partial(scores, module), inputs, rdrop=recipe.rdrop),
                ranked,
                prediction=lambda module, inputs: preferences(gather(scores(module, inputs)), recipe.scale),
            )
        case "sbert":
            return made(of_head, lambda logits, y: F.cross_entropy(logits, y), head=PairClasses(size))
        case "info_nce" | "flat_nce":
            return made(vectors, in_batch)
        case "supcon":
            return made(vectors, lambda found, y: supcon_loss(found[:, 0], y[:, 0], scale=recipe.scale))
        case "am_softmax":
            options = {"scale": recipe.scale, "margin": recipe.margin}
            head = CosineLinear(size, num_classes)
            return made(of_head, lambda cosines, y: am_softmax_loss(cosines, y[:, 0], **options), head=head)
    raise ValueError(f"--loss {recipe.loss} is none of {', '.join(SENTENCE_LOSSES)}")


def distillation_loss(recipe: Distillation, size: int, teacher_size: int) -> SentenceLoss:
    """--cosine-weight and --relation-weight of a student's vectors; the truth (B, E) is the teacher's vectors."""
    if recipe.cosine_weight and size != teacher_size:
        raise ValueError(
            f"the student's vectors have {size} numbers and the teacher's {teacher_size}, which have no cosine: "
            "--cosine-weight 0 leaves the relations"
        )

    def of(local: Tensor, teacher: Tensor) -> Tensor:
        student, teacher = gather_all(local, teacher)
        total = student.new_zeros(())
        if recipe.cosine_weight:
            total = total + recipe.cosine_weight * cosine_distillation_loss(student, teacher)
        if recipe.relation_weight:
            relations = relation_distillation_loss(student, teacher, scale=recipe.relation_scale)
            total = total + recipe.relation_weight * relations
        return total

    return SentenceLoss(lambda module, inputs: module(**inputs).sentence_embedding, of, over_step=True)
