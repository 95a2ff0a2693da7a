"""Train a text classifier: `accelerate launch training/train_classifier.py RECIPE [--flags]`.

Reads in the order it runs: recipe, data, model, loss, step, loop, evaluation, save, verify, push.
"""

from __future__ import annotations

from typing import Any

from recipes.choices import check_belongs_together, choose_tokenizer, configure, make_classifier, set_dropout
from recipes.classifier import RECIPES
from recipes.command_line import parse
from recipes.frame import begin, finish, mixture_of, prepare, read, unsharded_copy
from recipes.losses import choose_class_loss, class_targets
from recipes.modules import Classifier
from recipes.preflight import preflight
from recipes.step import mean_backward, rdrop_of_rows, regularized

import torch

from suzoo.data import (
    WithLabels,
    batch_to_device,
    class_names,
    read_classes,
    to_device,
    token_budget_batches,
    token_ids,
    tokenize_rows,
    tokenizer_key,
)
from suzoo.engine import RandomBatches, fit, run_script
from suzoo.evaluation import classification_scores
from suzoo.losses import RunningF1, class_log_prior, global_pointer_divergence, symmetric_kl
from suzoo.regularizers import repeat_rows


def main() -> None:
    recipe = parse(RECIPES, __doc__)
    accelerator, run = begin(recipe)
    recipe.check_regularizers(accelerator, coupled=recipe.loss == "dice")

    # Data
    train, dev, provenance = read(recipe, read_classes)
    names = class_names(train, recipe.data_name)
    several = any(len(row.labels) != 1 for row in train)
    if several and recipe.post_hoc_tau:
        raise ValueError("--post-hoc-tau is about classes of which a text has one; these texts have several")
    train_targets = class_targets(train, names, recipe.data_name, several=several)
    dev_targets = class_targets(dev, names, recipe.dev or recipe.data_name, several=several)
    counts = train_targets.sum(0) if several else train_targets.bincount(minlength=len(names))

    # Model
    tokenizer = choose_tokenizer(recipe, (row.text for row in train), needs=("pad",))
    tokenizer.model_max_length = recipe.max_length  # whoever opens the folder cuts where training did
    model = make_classifier(recipe, tokenizer, names, several=several)
    check_belongs_together(recipe, model, tokenizer)
    set_dropout(recipe, model)
    setattr(model, model.base_model_prefix, configure(recipe, model.base_model, tokenizer))
    whole = unsharded_copy(accelerator, model)
    running_f1 = RunningF1(len(names), momentum=recipe.f1_momentum)
    loss = choose_class_loss(recipe, counts, running_f1, several=several)

    # Examples: token ids and targets, padded to the longest text of the micro-batch
    def encode(rows, first):
        return {"input_ids": token_ids(tokenizer, [row.text for row in rows], recipe.max_length)}

    def padded(texts) -> dict[str, Any]:
        ids = tokenizer.pad({"input_ids": [text["input_ids"].tolist() for text in texts]}, return_tensors="pt")
        return batch_to_device(ids, accelerator.device)

    def collate(examples):
        texts, targets = zip(*examples, strict=True)
        return padded(texts), to_device(torch.stack([*map(torch.as_tensor, targets)]), accelerator.device)

    options: dict[str, Any] = {"num_workers": recipe.num_workers}
    options["key"] = ["classes", recipe.max_length, tokenizer_key(tokenizer)]
    examples = WithLabels(tokenize_rows(train, encode, **options), train_targets)
    batches = RandomBatches(examples, collate=collate, mixture=mixture_of(recipe, train), **recipe.batch_options)
    module = Classifier(model, running_f1)
    preflight(recipe, accelerator, run, tokenizer, module, batches, train, dev)
    module, optimizer, schedule, num_steps = prepare(recipe, accelerator, run, module, batches, provenance)

    # Step
    divergence = global_pointer_divergence if several else symmetric_kl

    def loss_of(inputs, targets):
        if not recipe.rdrop:
            return loss(module(**inputs), targets)
        first, second = module(**repeat_rows(inputs)).chunk(2)
        return rdrop_of_rows(first, second, lambda logits: loss(logits, targets), divergence, alpha=recipe.rdrop)

    def prediction(inputs):
        logits = module(**inputs)
        return torch.stack([logits, torch.zeros_like(logits)], -1) if several else logits

    def regularized_loss(batch):
        inputs, targets = batch
        num_rows = None if recipe.loss == "dice" else len(targets)
        compute = {"compute_logits": lambda: prediction(inputs), "num_rows": num_rows}
        return regularized(recipe, lambda: loss_of(inputs, targets), model, **compute)

    def step(micro_batches):
        return mean_backward(accelerator, micro_batches, regularized_loss)

    # Loop
    held_out = tokenize_rows(dev, encode, **options)

    def evaluate(post_hoc_tau: float = 0.0) -> dict[str, float]:
        logits = torch.zeros(len(dev), len(names))
        with torch.no_grad():
            for rows in token_budget_batches(held_out.lengths(), 8192):
                logits[rows] = module(**padded([held_out[row] for row in rows])).cpu()
        logits -= post_hoc_tau * class_log_prior(counts)
        predicted = (logits > 0).float() if several else logits.argmax(1)
        return classification_scores(predicted, dev_targets, train_counts=counts.tolist(), tail_below=recipe.tail_below)

    fit(
        step,
        accelerator=accelerator,
        model=module,
        optimizer=optimizer,
        schedule=schedule,
        batches=batches,
        num_steps=num_steps,
        run=run,
        evaluate=evaluate,
        **recipe.loop_options,
    )
    scores = {"dev": evaluate()}
    if recipe.post_hoc_tau:
        scores["dev, post hoc"] = evaluate(recipe.post_hoc_tau)

    # Save, verify, push
    finish(recipe, accelerator, run, model, whole, tokenizer, scores, provenance)


if __name__ == "__main__":
    run_script(main)
