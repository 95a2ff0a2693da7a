"""An encoder and the layer that a loss or a second task adds to it, as the one module that Accelerate prepares."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recipes.frame import read_one
from recipes.two_tasks import TwoTasks as Recipe

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from suzoo.data import class_names, class_numbers, flat_batch, read_classes
from suzoo.evaluation import classification_scores
from suzoo.losses import CosineLinear, RunningF1, SoftmaxPairLoss
from suzoo.models import CoSENTModel
from suzoo.multitask import inverse_gradient_norm, min_norm, pcgrad, primary_auxiliary

WEIGHTINGS = {
    "primary_auxiliary": primary_auxiliary,
    "min_norm": min_norm,
    "inverse_gradient_norm": inverse_gradient_norm,
    "pcgrad": pcgrad,
}


class Classifier(nn.Module):
    """A stock classifier and the running F1 of a loss that needs it."""

    def __init__(self, model: nn.Module, running_f1: RunningF1):
        super().__init__()
        self.model, self.running_f1 = model, running_f1

    def forward(self, **inputs) -> Tensor:
        return self.model(**inputs).logits.float()


class Extended(nn.Module):
    def __init__(self, encoder: CoSENTModel):
        super().__init__()
        self.encoder = encoder
        # FSDP shards the encoder as a unit of its own, which evaluation calls without what is around it
        self._no_split_modules = [*(encoder._no_split_modules or ()), type(encoder).__name__]


class SentenceBERT(Extended):
    """With the classifier over [u; v; |u-v|] of the CoSENT article's baseline."""

    def __init__(self, encoder: CoSENTModel):
        super().__init__(encoder)
        self.loss = SoftmaxPairLoss(encoder.config.hidden_size)

    def forward(self, classes, **inputs):
        embeddings = self.encoder(**inputs).sentence_embedding
        return self.loss(embeddings[0::2], embeddings[1::2], classes)


class TwoTasks(Extended):
    """With the classification layer of a second task."""

    def __init__(self, encoder: CoSENTModel, num_classes: int):
        super().__init__(encoder)
        self.head = nn.Linear(encoder.config.hidden_size, num_classes)

    def forward(self, classify: bool = False, **inputs):
        """(N, C) logits of the classes, or the encoder's output."""
        output = self.encoder(**inputs)
        logits = self.head(output.sentence_embedding)
        if classify:
            return logits.float()
        output.sentence_embedding = output.sentence_embedding + 0 * logits.sum()  # DDP waits for every parameter
        return output


def read_second_task(recipe: Recipe, provenance: dict) -> tuple[list, list, list[str]]:
    """(text, class number) of the rows of --also and of --also-dev, and the names of the classes."""
    options: dict[str, Any] = {"columns": recipe.also_columns}
    train, provenance["also"] = read_one(recipe, read_classes, recipe.also, recipe.also_split, **options)
    dev: Sequence[Any] = []
    if recipe.also_dev:
        split = recipe.also_dev_split or ("dev" if recipe.also_dev.startswith("embedded:") else None)
        dev, provenance["also_dev"] = read_one(recipe, read_classes, recipe.also_dev, split, **options)
    if any(len(row.labels) != 1 for row in [*train, *dev]):
        raise ValueError("--also takes texts of one class each; these have several or none")
    classes = class_names(train, "--also")

    def numbered(rows):
        numbers = class_numbers(rows, classes, "--also-dev")
        return [(row.text, number) for row, (number,) in zip(rows, numbers, strict=True)]

    return numbered(train), numbered(dev), classes


@torch.no_grad()
def second_task_scores(module: nn.Module, ids: Sequence[list[int]], numbers: Sequence[int], device) -> dict[str, float]:
    """Scores of the classes that a prepared `TwoTasks` in eval mode gives to texts (their tokens)."""
    logits = [module(classify=True, **flat_batch([text], device=device)) for text in ids]
    return classification_scores(torch.cat(logits).argmax(1).cpu(), torch.tensor(numbers))


def save_second_task(folder: Path, head: dict[str, Tensor], classes: list[str]) -> None:
    """`second_task/`: head.safetensors (weight (C, D) and bias (C,) of a linear layer on the sentence embedding) and
    classes.json."""
    (folder / "second_task").mkdir(exist_ok=True)
    save_file(head, folder / "second_task/head.safetensors")
    (folder / "second_task/classes.json").write_text(json.dumps(classes, ensure_ascii=False), encoding="utf-8")


class WithDirections(Extended):
    """With one learnt direction per class, for AM-Softmax."""

    def __init__(self, encoder: CoSENTModel, num_classes: int):
        super().__init__(encoder)
        self.directions = CosineLinear(encoder.config.hidden_size, num_classes)

    def forward(self, **inputs):
        """(N, C) cosines."""
        return self.directions(self.encoder(**inputs).sentence_embedding)
