"""Train a cross-encoder with CoSENT: `accelerate launch training/train_cross_encoder.py RECIPE [--flags]`.

Reads in the order it runs: recipe, data, model, step, loop, evaluation, save, verify, push.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from accelerate.utils import DistributedType
from transformers import BertConfig

from recipes._base import parse
from recipes._regularizers import preferences, rdrop_of_scores
from recipes.cross_encoder import RECIPES
from suzoo.data import check_labels, describe, flat_batch, read_pairs, read_ranked
from suzoo.distributed import gather, rank
from suzoo.engine import RandomBatches, batch_coupled_backward, end_training, fit, full_state_dict, run_script
from suzoo.evaluation import pair_metrics, reranking_metrics
from suzoo.hub.publish import publish
from suzoo.losses import cosent_loss
from suzoo.models import CoSENTCrossEncoder
from suzoo.regularizers import repeat_rows


def main() -> None:
    recipe = parse(RECIPES, __doc__)
    accelerator, run = recipe.start()
    recipe.check_regularizers(accelerator, coupled=True, flat=True)

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
    if recipe.loss == "bce" and not all(0 <= pair.label <= 1 for pair in train):
        raise ValueError("--loss bce takes labels from 0 to 1; grades beyond that need --loss cosent")

    # Model
    tokenizer = recipe.load_tokenizer([text for pair in train for text in (pair.text1, pair.text2)])
    if recipe.model:
        model = CoSENTCrossEncoder.from_pretrained(
            recipe.model, max_seq_length=recipe.max_length, trust_remote_code=recipe.trust_remote_code
        )
    else:
        model = CoSENTCrossEncoder(BertConfig(**recipe.sizes(tokenizer)))
        model.max_seq_length = recipe.max_length
    model.tokenizer = tokenizer
    recipe.check_fit(model.encoder, tokenizer)
    recipe.set_dropout(model)
    model.encoder = recipe.adapt(model.encoder, tokenizer)
    sharded = accelerator.distributed_type == DistributedType.FSDP
    whole = copy.deepcopy(model) if sharded else model  # no process can save or run its shards alone

    # Examples: token ids and types of a pair, and its label; the pairs of a batch lie end to end
    pairs = tokenizer(
        [pair.text1 for pair in train],
        [pair.text2 for pair in train],
        truncation="longest_first",
        max_length=recipe.max_length,
    )
    types = pairs.get("token_type_ids") or [None] * len(train)

    def collate(examples):
        ids, types, labels = zip(*examples, strict=True)
        batch = flat_batch(ids, None if types[0] is None else types, device=accelerator.device)
        return batch, torch.tensor(labels, device=accelerator.device)

    examples = list(zip(pairs["input_ids"], types, [pair.label for pair in train], strict=True))
    batches = RandomBatches(examples, collate=collate, **recipe.batch_options)
    num_steps = max(1, round(recipe.epochs * batches.steps_per_epoch))
    optimizer = recipe.choose_optimizer(model)
    schedule = recipe.choose_schedule(optimizer, num_steps)
    module, optimizer = accelerator.prepare(model, optimizer)
    run.start(accelerator, recipe, data)
    torch.manual_seed(recipe.seed + rank())  # from here on every rank draws its own dropout

    # Step
    def logits(inputs):
        return module(**inputs).logits[:, 0].float()

    def scores_of(micro_batch):
        """(P,) logits; for R-Drop (P, 2), those of two passes."""
        inputs = micro_batch[0]
        return logits(repeat_rows(inputs)).view(2, -1).T if recipe.rdrop else logits(inputs)

    def step(micro_batches):
        everywhere = gather(torch.cat([labels for _, labels in micro_batches]))

        def loss_of_one_pass(scores):
            if recipe.loss == "bce":
                return F.binary_cross_entropy_with_logits(scores, everywhere)
            return cosent_loss(scores, everywhere, scale=recipe.scale)

        def loss(scores):  # only scores and labels travel between processes
            return rdrop_of_scores(gather(scores), loss_of_one_pass, alpha=recipe.rdrop, scale=recipe.scale)

        if len(micro_batches) > 1:
            return {"loss": batch_coupled_backward(accelerator, module, micro_batches, scores_of, loss)}
        value, numbers = recipe.regularized(
            lambda: loss(scores_of(micro_batches[0])),
            model,
            compute_logits=lambda: preferences(gather(logits(micro_batches[0][0])), recipe.scale),
        )
        accelerator.backward(value)
        return numbers

    # Loop
    def evaluate() -> dict[str, float]:
        scores = model.predict([(pair.text1, pair.text2) for pair in dev])
        return pair_metrics(scores, [pair.label for pair in dev])

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
    if recipe.ranked:
        scores["ranked"] = reranking_metrics(model.predict, ranked)

    # Save, verify, push
    if sharded:
        whole.load_state_dict(full_state_dict(model))  # every process takes part
    end_training(accelerator)
    if recipe.lora_r and not recipe.adapter_only:
        whole.encoder = whole.encoder.merge_and_unload()  # ty: ignore[not-callable]
    if accelerator.is_main_process:
        whole.save_pretrained(run.path)
        run.finish(recipe, scores, script="training/train_cross_encoder.py", data=data)
        if recipe.adapter_only:
            print(f"saved: {run.path}, an adapter that opens where {recipe.model} is")
        else:
            publish(whole, tokenizer, run.path, recipe.push_to)


if __name__ == "__main__":
    run_script(main)
