"""Train a text classifier: `accelerate launch training/train_classifier.py RECIPE [--flags]`.

Reads in the order it runs: recipe, data, model, loss, step, loop, evaluation, save, verify, push.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from accelerate.utils import DistributedType
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, BertConfig

from recipes._base import parse
from recipes._regularizers import mean_of
from recipes.classifier import RECIPES
from suzoo.data import class_names, class_numbers, describe, read_classes
from suzoo.distributed import rank
from suzoo.engine import RandomBatches, end_training, fit, full_state_dict, run_script
from suzoo.evaluation import classification_scores
from suzoo.hub.publish import publish
from suzoo.losses import RunningF1, class_log_prior, global_pointer_divergence, rdrop_sum, symmetric_kl
from suzoo.losses.citations import cite
from suzoo.models._batching import token_budget_batches
from suzoo.models._stock_encoder import missing_weights
from suzoo.regularizers import repeat_rows


class Classifier(nn.Module):
    """The stock model and the running F1 of a loss that needs it, as the one module that Accelerate prepares."""

    def __init__(self, model: nn.Module, running_f1: RunningF1):
        super().__init__()
        self.model, self.running_f1 = model, running_f1

    def forward(self, **inputs) -> Tensor:
        return self.model(**inputs).logits.float()


def main() -> None:
    recipe = parse(RECIPES, __doc__)
    accelerator, run = recipe.start()
    recipe.check_regularizers(accelerator, coupled=recipe.loss == "dice")
    if recipe.adapter_only:
        raise ValueError("--lora-save adapter would leave the classification layer out: use merged")

    # Data
    split = recipe.split or "train"
    dev_source, dev_split = recipe.dev_data
    options: dict[str, Any] = {"columns": recipe.columns, "skip_bad_rows": recipe.skip_bad_rows}
    train = read_classes(recipe.data, split=split, max_rows=recipe.max_train_samples, **options)
    dev = read_classes(dev_source, split=dev_split, max_rows=recipe.max_dev_samples, **options)
    data = {"train": describe(recipe.data, split, train), "dev": describe(dev_source, dev_split, dev)}
    names = class_names(train, recipe.data)
    several = any(len(row.labels) != 1 for row in train)
    if several and recipe.post_hoc_tau:
        raise ValueError("--post-hoc-tau is about classes of which a text has one; these texts have several")

    def targets_of(rows, source: str) -> Tensor:
        hot = torch.zeros(len(rows), len(names))
        for i, numbers in enumerate(class_numbers(rows, names, source)):
            hot[i, numbers] = 1.0
        return hot if several else hot.argmax(1)

    train_targets, dev_targets = targets_of(train, recipe.data), targets_of(dev, dev_source)
    counts = train_targets.sum(0) if several else train_targets.bincount(minlength=len(names))

    # Model
    tokenizer = recipe.load_tokenizer((row.text for row in train), needs=("pad",))
    tokenizer.model_max_length = recipe.max_length  # whoever opens the folder cuts where training did
    head: dict[str, Any] = {
        "id2label": dict(enumerate(names)),
        "label2id": {name: i for i, name in enumerate(names)},
        "problem_type": "multi_label_classification" if several else "single_label_classification",
    }
    if recipe.model:
        model, info = AutoModelForSequenceClassification.from_pretrained(
            recipe.model,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            trust_remote_code=recipe.trust_remote_code,
            **head,
        )
        missing = missing_weights(info, model.base_model_prefix + ".")
        if missing:
            raise ValueError(f"{recipe.model} lacks weights: {', '.join(missing[:5])} ({len(missing)} in all)")
    else:
        model = AutoModelForSequenceClassification.from_config(BertConfig(**recipe.sizes(tokenizer), **head))
    recipe.check_fit(model, tokenizer)
    recipe.set_dropout(model)
    setattr(model, model.base_model_prefix, recipe.adapt(model.base_model, tokenizer))
    sharded = accelerator.distributed_type == DistributedType.FSDP
    whole = copy.deepcopy(model) if sharded else model  # no process can save or run its shards alone
    running_f1 = RunningF1(len(names), momentum=recipe.f1_momentum)
    module = Classifier(model, running_f1)
    loss = recipe.choose_loss(counts, running_f1, several=several)

    # Examples: token ids and targets, padded to the longest text of the micro-batch
    def encode(rows) -> list[list[int]]:
        return tokenizer([row.text for row in rows], truncation=True, max_length=recipe.max_length)["input_ids"]

    def padded(ids) -> dict[str, Tensor]:
        return dict(tokenizer.pad({"input_ids": list(ids)}, return_tensors="pt").to(accelerator.device))

    def collate(examples):
        ids, targets = zip(*examples, strict=True)
        return padded(ids), torch.stack(targets).to(accelerator.device)

    examples = list(zip(encode(train), train_targets, strict=True))
    batches = RandomBatches(examples, collate=collate, **recipe.batch_options)
    num_steps = max(1, round(recipe.epochs * batches.steps_per_epoch))
    optimizer = recipe.choose_optimizer(module)
    schedule = recipe.choose_schedule(optimizer, num_steps)
    module, optimizer = accelerator.prepare(module, optimizer)
    run.start(accelerator, recipe, data)
    torch.manual_seed(recipe.seed + rank())  # from here on every rank draws its own dropout

    # Step
    def loss_of(inputs, targets):
        if not recipe.rdrop:
            return loss(module(**inputs), targets)
        first, second = module(**repeat_rows(inputs)).chunk(2)
        divergence = (global_pointer_divergence if several else symmetric_kl)(first, second).mean()
        return rdrop_sum(loss(first, targets), loss(second, targets), divergence, alpha=recipe.rdrop)

    def prediction(inputs):
        logits = module(**inputs)
        return torch.stack([logits, torch.zeros_like(logits)], -1) if several else logits

    def step(micro_batches):
        parts = []
        for inputs, targets in micro_batches:
            value, numbers = recipe.regularized(
                lambda inputs=inputs, targets=targets: loss_of(inputs, targets),
                model,
                compute_logits=lambda inputs=inputs: prediction(inputs),
                num_rows=None if recipe.loss == "dice" else len(targets),
            )
            accelerator.backward(value / len(micro_batches))
            parts.append(numbers)
        return mean_of(parts)

    # Loop
    dev_ids = encode(dev)

    def evaluate(post_hoc_tau: float = 0.0) -> dict[str, float]:
        logits = torch.zeros(len(dev), len(names))
        with torch.no_grad():
            for rows in token_budget_batches([len(ids) for ids in dev_ids], 8192):
                logits[rows] = module(**padded([dev_ids[row] for row in rows])).cpu()
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
        monitor=recipe.monitor,
        **recipe.loop_options,
    )
    scores = {"dev": evaluate()}
    if recipe.post_hoc_tau:
        scores["dev, post hoc"] = evaluate(recipe.post_hoc_tau)

    # Save, verify, push
    if sharded:
        state = full_state_dict(model)  # every process takes part
        whole.load_state_dict(state)
    end_training(accelerator)
    if recipe.lora_r:
        setattr(whole, whole.base_model_prefix, getattr(whole, whole.base_model_prefix).merge_and_unload())
    if accelerator.is_main_process:
        whole.save_pretrained(run.path)
        tokenizer.save_pretrained(run.path)
        run.finish(recipe, scores, script="training/train_classifier.py", data=data, citations=cite(*recipe.cited))
        publish(whole, tokenizer, run.path, recipe.push_to)


if __name__ == "__main__":
    run_script(main)
