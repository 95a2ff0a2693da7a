"""The arithmetic of a step that several scripts share: losses of sentences, regularizers, R-Drop, micro-batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

from recipes.regularizers import Regularized

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import PreTrainedModel

from suzoo.engine import batch_coupled_backward
from suzoo.losses import flooding, rdrop_loss, rdrop_sum, symmetric_kl
from suzoo.regularizers import embedding_noise, fgm, gradient_penalty, pgd, repeat_rows, vat_loss, weissi_penalty


def regularized(
    recipe: Regularized,
    compute_loss: Callable[[], Tensor],
    model: PreTrainedModel,
    *,
    compute_logits: Callable[[], Tensor],
    num_rows: int | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """(what to call backward on, numbers to log) for a loss that may be computed several times.

    Args:
        recipe: whose flags say how.
        compute_loss: runs the model and returns the scalar loss.
        model: the module with the embeddings and matrices.
        compute_logits: runs the model and returns what it predicts, (..., C), for --vat.
        num_rows: number of rows the loss is a mean over; None if it is none.
    """
    embedding = model.get_input_embeddings()
    noise = embedding_noise(embedding, recipe.embedding_noise) if recipe.embedding_noise else nullcontext()
    parts: dict[str, Tensor] = {}
    norm: Any = recipe.disturbance_norm
    with noise:
        if recipe.fgm:
            loss = fgm(compute_loss, embedding, epsilon=recipe.fgm, norm=norm)
        elif recipe.pgd:
            loss = pgd(
                compute_loss,
                embedding,
                epsilon=recipe.pgd,
                step_size=recipe.pgd_step_size,
                num_steps=recipe.pgd_steps,
                norm=norm,
            )
        elif recipe.gradient_penalty:
            loss = gradient_penalty(compute_loss, embedding, epsilon=recipe.gradient_penalty, num_rows=num_rows)
        else:
            loss = compute_loss()
        if recipe.vat:
            parts["vat"] = vat_loss(compute_logits, embedding, epsilon=recipe.vat, norm=norm)
            loss = loss + recipe.vat_weight * parts["vat"]
    if recipe.weissi:
        layers = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv1d)]
        weights = [m.weight for m in layers if m.weight.requires_grad]
        parts["weissi"] = weissi_penalty(weights, log_weight=recipe.weissi, direction_weight=recipe.weissi)
        loss = loss + parts["weissi"]
    parts = {name: value.detach() for name, value in {"loss": loss, **parts}.items()}
    return flooding(loss, recipe.flood) if recipe.flood else loss, parts


def mean_of(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The numbers to log of a step from those of its micro-batches."""
    return {name: torch.stack([part[name] for part in parts]).mean() for name in parts[0]}


def mean_backward(
    accelerator: Accelerator,
    micro_batches: Sequence[Any],
    loss: Callable[[Any], Tensor | tuple[Tensor, dict[str, Tensor]]],
) -> dict[str, Tensor]:
    """Backward of the mean over micro-batches of as many examples each; returns the means of the numbers to log.

    Args:
        loss: micro-batch -> scalar, or (what to call backward on, numbers to log).
    """
    parts = []
    for batch in micro_batches:
        found = loss(batch)
        value, numbers = found if isinstance(found, tuple) else (found, {"loss": found.detach()})
        accelerator.backward(value / len(micro_batches))
        parts.append(numbers)
    return mean_of(parts)


def of_passes(scores: Callable[[dict], Tensor], inputs: dict, *, rdrop: float) -> Tensor:
    """(P,) scores of pairs; for R-Drop (P, 2), those of two passes with their own dropout."""
    return scores(repeat_rows(inputs)).view(2, -1).T if rdrop else scores(inputs)


def rdrop_of_rows(
    first: Tensor, second: Tensor, loss: Callable[[Tensor], Tensor], divergence: Callable, *, alpha: float
) -> Tensor:
    """R-Drop, in the blog's scale, for a mean over rows: the mean loss of two passes plus alpha / 4 times the mean
    symmetric divergence of their predictions (B, C)."""
    return rdrop_sum(loss(first), loss(second), divergence(first, second).mean(), alpha=alpha)


def rdrop_of_tokens(
    logits: Tensor, labels: Tensor, *, alpha: float, reduction: Literal["mean", "sum", "none"]
) -> Tensor:
    """R-Drop on rows that `repeat_rows` doubled: the second half are the same tokens under another dropout."""
    (first, second), (labels, _) = logits.chunk(2), labels.chunk(2)
    return rdrop_loss(first, second, labels, alpha=alpha, reduction=reduction)


def preferences(scores_P: Tensor, scale: float) -> Tensor:
    """(P, P, 2) logits of what a loss on the order of scores predicts: which of every two pairs is more alike."""
    differences = scale * (scores_P[:, None] - scores_P)
    return torch.stack([differences, torch.zeros_like(differences)], -1)


def rdrop_of_scores(scores: Tensor, loss: Callable[[Tensor], Tensor], *, alpha: float, scale: float) -> Tensor:
    """R-Drop, in the blog's scale, for a loss on scores of pairs: the `preferences` of two passes (P, 2) should agree.

    With alpha 0 the scores are (P,), and this is the loss.
    """
    if not alpha:
        return loss(scores)
    first, second = scores.unbind(1)
    divergence = symmetric_kl(preferences(first, scale), preferences(second, scale)).mean()
    return rdrop_sum(loss(first), loss(second), divergence, alpha=alpha)


@dataclass(frozen=True)
class SentenceLoss:
    """A loss on the sentence vectors of a step, in two parts: what each example gives, and one number of all of them.

    A micro-batch is (inputs of the model, truth), the texts of an example side by side.
    """

    outputs: Callable[[nn.Module, dict[str, Any]], Tensor]
    """(prepared module, inputs) -> (B, ...): all that the loss looks at, a row per example."""
    of: Callable[[Tensor, Tensor], Tensor]
    """(outputs of this rank's examples, their truth) -> scalar. Losses over a step gather those of other ranks."""
    over_step: bool
    """It compares the examples of the whole step; else it is a mean over examples."""
    head: nn.Module | None = None
    """The layer that is trained beside the encoder and dropped at the end."""
    prediction: Callable[[nn.Module, dict[str, Any]], Tensor] | None = None
    """(prepared module, inputs) -> logits (..., C) that --vat disturbs."""

    def value(self, module: nn.Module, batch: tuple[dict[str, Any], Tensor]) -> Tensor:
        """The loss of a step that is one micro-batch."""
        return self.of(self.outputs(module, batch[0]), batch[1])


def regularized_ranking(
    recipe: Regularized, loss: SentenceLoss, module: nn.Module, model: Any, batch: tuple[dict[str, Any], Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """`regularized` for a loss that compares the pairs of a step, which is one micro-batch."""
    predict = loss.prediction
    assert predict is not None

    def logits() -> Tensor:
        return predict(module, batch[0])

    return regularized(recipe, lambda: loss.value(module, batch), model, compute_logits=logits)


def sentence_backward(
    recipe: Any, accelerator: Accelerator, module: nn.Module, model: Any, loss: SentenceLoss, micro_batches: Sequence
) -> dict[str, Tensor]:
    """Backward of a loss on sentence vectors; returns the numbers to log.

    Args:
        recipe: whose regularizers count where the loss compares pairs.
        module: what Accelerate prepared; `model`: the encoder in it.
    """
    if not loss.over_step:
        return mean_backward(accelerator, micro_batches, lambda batch: loss.value(module, batch))
    if len(micro_batches) == 1 and isinstance(recipe, Regularized):
        value, numbers = regularized_ranking(recipe, loss, module, model, micro_batches[0])
        accelerator.backward(value)
        return numbers
    truth = torch.cat([truth for _, truth in micro_batches])

    def outputs(batch):
        return loss.outputs(module, batch[0])

    value = batch_coupled_backward(accelerator, module, micro_batches, outputs, lambda all: loss.of(all, truth))
    return {"loss": value}
