"""Train a sentence encoder with CoSENT: `accelerate launch training/train_cosent.py RECIPE [--flags]`.

Reads in the order it runs: recipe, data, model, step, loop, evaluation, save, verify, push.
"""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate.utils import DistributedType
from transformers import BertConfig

from recipes._base import parse
from recipes._modules import SentenceBERT, TwoTasks
from recipes._regularizers import preferences, rdrop_of_scores
from recipes.cosent import RECIPES
from suzoo.data import (
    check_labels,
    class_names,
    class_numbers,
    describe,
    flat_batch,
    read_classes,
    read_pairs,
    read_ranked,
)
from suzoo.distributed import gather, rank
from suzoo.engine import (
    MixedBatches,
    RandomBatches,
    batch_coupled_backward,
    end_training,
    fit,
    full_state_dict,
    run_script,
)
from suzoo.evaluation import classification_scores, pair_cosines, pair_metrics, retrieval_metrics
from suzoo.hub.publish import publish
from suzoo.losses import cosent_loss, cross_entropy_loss
from suzoo.models import CoSENTModel
from suzoo.multitask import inverse_gradient_norm, min_norm, multitask_backward, pcgrad, primary_auxiliary
from suzoo.regularizers import repeat_rows

WEIGHTINGS = {
    "primary_auxiliary": primary_auxiliary,
    "min_norm": min_norm,
    "inverse_gradient_norm": inverse_gradient_norm,
    "pcgrad": pcgrad,
}


def main() -> None:
    recipe = parse(RECIPES, __doc__)
    accelerator, run = recipe.start()
    recipe.check_regularizers(accelerator, coupled=True, flat=True)
    recipe.check_tasks(accelerator)

    # Data
    split = recipe.split or "train"
    dev_source, dev_split = recipe.dev_data
    options: dict[str, Any] = {"columns": recipe.columns, "skip_bad_rows": recipe.skip_bad_rows}
    train = read_pairs(recipe.data, split=split, max_rows=recipe.max_train_samples, **options)
    dev = read_pairs(dev_source, split=dev_split, max_rows=recipe.max_dev_samples, **options)
    check_labels(train, recipe.data)
    check_labels(dev, dev_source)
    data = {"train": describe(recipe.data, split, train), "dev": describe(dev_source, dev_split, dev)}
    if recipe.ranked:
        ranked = read_ranked(recipe.ranked, split=recipe.ranked_split, **options)
        data["ranked"] = describe(recipe.ranked, recipe.ranked_split, ranked)
    also, also_dev = [], []
    options["columns"] = recipe.also_columns
    if recipe.also:
        also = read_classes(recipe.also, split=recipe.also_split, **options)
        data["also"] = describe(recipe.also, recipe.also_split, also)
    if recipe.also_dev:
        also_dev = read_classes(recipe.also_dev, split=recipe.also_dev_split, **options)
        data["also_dev"] = describe(recipe.also_dev, recipe.also_dev_split, also_dev)
    if any(len(row.labels) != 1 for row in [*also, *also_dev]):
        raise ValueError("--also takes texts of one class each; these have several or none")
    classes = class_names(also, "--also") if also else []
    also_numbers, also_dev_numbers = (
        [number for (number,) in class_numbers(rows, classes, "--also-dev")] for rows in (also, also_dev)
    )

    # Model
    texts = [text for pair in train for text in (pair.text1, pair.text2)]
    tokenizer = recipe.load_tokenizer([*texts, *(row.text for row in also)])
    if recipe.model:
        model = CoSENTModel.from_pretrained(
            recipe.model,
            pooling=recipe.pooling,
            max_seq_length=recipe.max_length,
            trust_remote_code=recipe.trust_remote_code,
        )
    else:
        model = CoSENTModel(BertConfig(**recipe.sizes(tokenizer)), pooling=recipe.pooling or "cls")
        model.max_seq_length = recipe.max_length
    model.tokenizer = tokenizer
    recipe.check_fit(model.encoder, tokenizer)
    recipe.set_dropout(model)
    model.encoder = recipe.adapt(model.encoder, tokenizer)
    sharded = accelerator.distributed_type == DistributedType.FSDP
    whole = copy.deepcopy(model) if sharded else model  # no process can save or run its shards alone
    module = SentenceBERT(model) if recipe.loss == "sbert" else TwoTasks(model, len(classes)) if also else model

    # Examples: texts and a label, the texts of a batch end to end: 2i and 2i + 1 are those of pair i
    def encode(texts):
        return tokenizer(texts, truncation=True, max_length=recipe.max_length)["input_ids"]

    def collate(examples):
        batch = flat_batch([ids for texts, _ in examples for ids in texts], device=accelerator.device)
        return batch, torch.tensor([label for _, label in examples], device=accelerator.device)

    ids = encode(texts)
    labels = [pair.label for pair in train]
    if recipe.loss == "sbert":
        labels = [int(label > recipe.class_threshold) for label in labels]
        if len(set(labels)) < 2:
            raise ValueError(f"--class-threshold {recipe.class_threshold} puts every training pair into one class")

    examples = list(zip(zip(ids[0::2], ids[1::2], strict=True), labels, strict=True))
    batches = RandomBatches(examples, collate=collate, **recipe.batch_options)
    if also:
        ids = [(text,) for text in encode([row.text for row in also])]
        examples = list(zip(ids, also_numbers, strict=True))
        parts = {"similarity": batches, "also": RandomBatches(examples, collate=collate, **recipe.batch_options)}
        batches = MixedBatches(parts, mix=recipe.mix, seed=recipe.seed)
        sizes = " and ".join(f"{part.steps_per_epoch} batches of {name}" for name, part in parts.items())
        accelerator.print(f"two tasks, {recipe.mix}: {sizes} are one pass over each")
    num_steps = max(1, round(recipe.epochs * batches.steps_per_epoch))
    optimizer = recipe.choose_optimizer(module)
    schedule = recipe.choose_schedule(optimizer, num_steps)
    module, optimizer = accelerator.prepare(module, optimizer)
    run.start(accelerator, recipe, data)
    torch.manual_seed(recipe.seed + rank())  # from here on every rank draws its own dropout

    # Step
    def cosines(inputs):
        embeddings = module(**inputs).sentence_embedding
        return F.cosine_similarity(embeddings[0::2], embeddings[1::2])

    def scores_of(micro_batch):
        """(P,) cosines; for R-Drop (P, 2), those of two passes."""
        inputs = micro_batch[0]
        return cosines(repeat_rows(inputs)).view(2, -1).T if recipe.rdrop else cosines(inputs)

    def cosent(micro_batches):
        """scores of the step -> loss; only scores and labels travel between processes."""
        everywhere = gather(torch.cat([labels for _, labels in micro_batches]))
        loss = partial(cosent_loss, labels=everywhere, scale=recipe.scale)
        return lambda scores: rdrop_of_scores(gather(scores), loss, alpha=recipe.rdrop, scale=recipe.scale)

    def regularized_cosent(batch):
        loss, logits = cosent([batch]), lambda: preferences(gather(cosines(batch[0])), recipe.scale)
        return recipe.regularized(lambda: loss(scores_of(batch)), model, compute_logits=logits)

    def cosent_step(micro_batches):
        if len(micro_batches) > 1:
            loss = cosent(micro_batches)
            return {"loss": batch_coupled_backward(accelerator, module, micro_batches, scores_of, loss)}
        loss, numbers = regularized_cosent(micro_batches[0])
        accelerator.backward(loss)
        return numbers

    def also_loss(batch):
        return recipe.also_weight * cross_entropy_loss(module(classify=True, **batch[0]), batch[1])

    def also_step(micro_batches):
        total = 0.0
        for batch in micro_batches:
            loss = also_loss(batch) / len(micro_batches)
            accelerator.backward(loss)
            total += loss.detach()
        return {"loss": total}

    latest: dict[str, Any] = {}  # the loss of each task when it was last in a step

    def two_task_step(tagged):
        pairs, texts = ([batch for name, batch in tagged if name == task] for task in ("similarity", "also"))
        losses = {}
        if recipe.weighting != "sum":
            both = regularized_cosent(pairs[0])[0], also_loss(texts[0])
            weights = multitask_backward(both, model.parameters(), WEIGHTINGS[recipe.weighting])
            losses = {"similarity_loss": both[0].detach(), "also_loss": both[1].detach()}
            latest.update(similarity_weight=weights[0], also_weight=weights[1])
        else:
            losses |= {"similarity_loss": cosent_step(pairs)["loss"]} if pairs else {}
            losses |= {"also_loss": also_step(texts)["loss"]} if texts else {}
        latest.update(losses)
        return {"loss": sum(losses.values()), **latest}

    def sbert_step(micro_batches):
        total = 0.0
        for inputs, classes in micro_batches:
            loss = module(classes, **inputs) / len(micro_batches)
            accelerator.backward(loss)
            total += loss.detach()
        return {"loss": total}

    # Loop
    def evaluate() -> dict[str, float]:
        return pair_metrics(pair_cosines(model.encode, dev), [pair.label for pair in dev])

    fit(
        sbert_step if recipe.loss == "sbert" else two_task_step if also else cosent_step,
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
    if recipe.ranked:
        scores["ranked"] = retrieval_metrics(model.encode, ranked)
    if also_dev:
        with torch.no_grad():
            inputs = [flat_batch([ids], device=accelerator.device) for ids in encode([row.text for row in also_dev])]
            predicted = [int(module(classify=True, **text).argmax()) for text in inputs]
        scores["also_dev"] = classification_scores(np.array(predicted), np.array(also_dev_numbers))

    # Save, verify, push
    if sharded:
        whole.load_state_dict(full_state_dict(model))  # every process takes part
    end_training(accelerator)
    if recipe.lora_r and not recipe.adapter_only:
        whole.encoder = whole.encoder.merge_and_unload()  # ty: ignore[not-callable]
    if accelerator.is_main_process:
        whole.save_pretrained(run.path)
        run.finish(recipe, scores, script="training/train_cosent.py", data=data)
        if recipe.adapter_only:
            print(f"saved: {run.path}, an adapter that opens where {recipe.model} is")
        else:
            publish(whole, tokenizer, run.path, recipe.push_to)


if __name__ == "__main__":
    run_script(main)
