"""Two tasks of one sentence encoder: the similarity of graded pairs, and the classes of texts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import chain
from typing import Any

from recipes.choices import choose_prompt, choose_tokenizer, make_encoder
from recipes.contrastive_data import check_one_class
from recipes.frame import mixture_of, read, read_one
from recipes.losses import choose_loss
from recipes.modules import WithClasses
from recipes.step import mean_backward, regularized_ranking, sentence_backward
from recipes.two_tasks import TwoTasks

import numpy as np
import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from torch import Tensor, nn

from suzoo.data import (
    Classified,
    Pair,
    WithLabels,
    check_labels,
    class_names,
    class_numbers,
    flat_batch,
    numbers,
    read_classes,
    read_pairs,
    read_ranked,
    token_ids,
    tokenize_rows,
    tokenizer_key,
)
from suzoo.engine import MixedBatches, RandomBatches, RunFolder, full_state_dict
from suzoo.evaluation import classification_scores, pair_cosines, pair_metrics, retrieval_metrics
from suzoo.losses import cross_entropy_loss
from suzoo.models._devices import to_device
from suzoo.models._file_modes import share_weights
from suzoo.reach import split_of_dev


class SimilarityAndClasses:
    """Data, model, examples and losses, in this order. A step is a list of (task, micro-batch); the names of the losses
    are similarity_loss and also_loss.

    Attributes:
        model, tokenizer: what will be saved. module: what Accelerate prepares.
        batches: step -> micro-batches. provenance: what run.json says of the data.
        train, dev_rows: rows as they were read.
    """

    def __init__(self, recipe: TwoTasks, accelerator: Accelerator):
        self.recipe, self.accelerator = recipe, accelerator

        # Data
        self.train, self.dev, self.provenance = read(recipe, read_pairs)
        train, self.dev_rows = self.train, self.dev
        check_labels(train, recipe.data_name)
        check_labels(self.dev, recipe.dev or recipe.data_name)
        self.ranked: Any = None
        if recipe.ranked:
            self.ranked, self.provenance["ranked"] = read_one(recipe, read_ranked, recipe.ranked, recipe.ranked_split)
        also, self.also_dev, self.classes = read_classified(recipe, self.provenance)

        # Model
        texts = (text for pair in train for text in (pair.text1, pair.text2))
        self.tokenizer = choose_tokenizer(recipe, chain(texts, (row.text for row in also)))
        self.model = make_encoder(recipe, self.tokenizer)
        self.prompt = choose_prompt(recipe, accelerator, self.model)
        if self.model.prompt_tokens(self.tokenizer, self.prompt):
            raise ValueError(f"{recipe.model} pools without its prompt, which two tasks cannot: give --prompt ''")
        self.module = WithClasses(self.model, len(self.classes))
        self.loss = choose_loss(recipe, self.model.embedding_size)

        # Examples: texts and a label, the texts of a batch end to end: 2i and 2i + 1 are those of pair i
        read_as = self.model.as_read(["Aa"], self.prompt)
        options: dict[str, Any] = {"num_workers": recipe.num_workers}
        options["key"] = ["texts", recipe.max_length, read_as, tokenizer_key(self.tokenizer)]
        pairs = WithLabels(tokenize_rows(train, self.encode_pairs, **options), numbers(train, "label"))
        classified = WithLabels(tokenize_rows(also, self.encode_texts, **options), self.numbers_of(also))
        options = {"collate": self.collate, **recipe.batch_options}
        parts = {
            "similarity": RandomBatches(pairs, mixture=mixture_of(recipe, train), **options),
            "also": RandomBatches(classified, **options),
        }
        self.batches = MixedBatches(parts, mix=recipe.mix, seed=recipe.seed)
        told = " and ".join(f"{part.steps_per_epoch} batches of {name}" for name, part in parts.items())
        accelerator.print(f"two tasks, {recipe.mix}: {told} are one pass over each")

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return token_ids(self.tokenizer, self.model.as_read(texts, self.prompt), self.recipe.max_length)

    def encode_pairs(self, pairs: Sequence[Pair], first: int) -> dict[str, list[list[int]]]:
        ids = self.encode([text for pair in pairs for text in (pair.text1, pair.text2)])
        return {"text1": ids[0::2], "text2": ids[1::2]}

    def encode_texts(self, rows: Sequence[Classified], first: int) -> dict[str, list[list[int]]]:
        return {"text": self.encode([row.text for row in rows])}

    def numbers_of(self, rows: Sequence[Classified]) -> np.ndarray:
        """The class of each row (n,)."""
        return np.array([number for (number,) in class_numbers(rows, self.classes, "--also-dev")])

    def collate(self, examples):
        device = self.accelerator.device
        batch = flat_batch([ids for texts, _ in examples for ids in texts.values()], device=device)
        return batch, to_device(torch.tensor([label for _, label in examples]), device)

    def also_loss(self, module: nn.Module, batch: tuple[dict[str, Any], Tensor]) -> Tensor:
        return self.recipe.also_weight * cross_entropy_loss(module(classify=True, **batch[0]), batch[1])

    def losses(self, module: nn.Module, micro_batches: list) -> dict[str, Tensor]:
        """Both losses of a step that has one micro-batch of each."""
        of = dict(micro_batches)
        similarity, _ = regularized_ranking(self.recipe, self.loss, module, self.model, of["similarity"])
        return {"similarity_loss": similarity, "also_loss": self.also_loss(module, of["also"])}

    def backward(self, module: nn.Module, micro_batches: list) -> dict[str, Tensor]:
        """Backward of the sum of the losses of a step, which may have one of the tasks only."""
        pairs, texts = ([batch for name, batch in micro_batches if name == task] for task in ("similarity", "also"))
        found = {}
        if pairs:
            scores = sentence_backward(self.recipe, self.accelerator, module, self.model, self.loss, pairs)
            found["similarity_loss"] = scores["loss"]
        if texts:
            found["also_loss"] = mean_backward(self.accelerator, texts, lambda batch: self.also_loss(module, batch))[
                "loss"
            ]
        return found

    def evaluate(self, module: nn.Module) -> dict[str, float]:
        return pair_metrics(pair_cosines(self.model.encode, self.dev), numbers(self.dev, "label"))

    @torch.no_grad()
    def score(self, module: nn.Module) -> dict[str, dict[str, float]]:
        """Scores of the end, by data set; every process takes part."""
        scores = {"dev": self.evaluate(module)}
        if self.ranked:
            scores["ranked"] = retrieval_metrics(self.model.encode, self.ranked)
        if self.also_dev:
            texts = [row.text for row in self.also_dev]
            device = self.accelerator.device
            logits = [module(classify=True, **flat_batch([ids], device=device)) for ids in self.encode(texts)]
            predicted = torch.cat(logits).argmax(1).cpu()
            scores["also_dev"] = classification_scores(predicted, torch.from_numpy(self.numbers_of(self.also_dev)))
        self.head = full_state_dict(self.module.head)
        return scores

    def save_second(self, run: RunFolder, whole: Any, scores: dict) -> None:
        """`second_task/`: head.safetensors (weight (C, D) and bias (C,) of a linear layer on the sentence embedding)
        and classes.json."""
        folder = run.path / "second_task"
        folder.mkdir(exist_ok=True)
        save_file(self.head, folder / "head.safetensors")
        (folder / "classes.json").write_text(json.dumps(self.classes, ensure_ascii=False), encoding="utf-8")
        share_weights(folder, "head.safetensors")

    def publish_second(self, run: RunFolder) -> None:
        """The layer is part of the encoder's folder."""


def read_classified(recipe: TwoTasks, provenance: dict) -> tuple[Sequence[Classified], Sequence[Classified], list[str]]:
    """Rows of --also and of --also-dev, and the names of the classes."""
    options: dict[str, Any] = {"columns": recipe.also_columns}
    train, provenance["also"] = read_one(recipe, read_classes, recipe.also, recipe.also_split, **options)
    dev: Sequence[Classified] = []
    if recipe.also_dev:
        split = recipe.also_dev_split or split_of_dev(recipe.also_dev)
        dev, provenance["also_dev"] = read_one(recipe, read_classes, recipe.also_dev, split, **options)
    check_one_class(chain(train, dev), "--also")
    classes = class_names(train, "--also")
    class_numbers(dev, classes, "--also-dev")  # refuses a class that is not among them
    return train, dev, classes
