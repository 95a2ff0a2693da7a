"""Train a sentence encoder with CoSENT: `accelerate launch training/train_cosent.py RECIPE [--flags]`.

Reads in the order it runs: recipe, data, model, step, loop, evaluation, save, verify, push.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from accelerate.utils import DistributedType
from torch import nn
from transformers import BertConfig

from recipes._base import parse
from recipes.cosent import RECIPES
from suzoo.data import check_labels, describe, flat_batch, read_pairs, read_ranked
from suzoo.distributed import gather, rank
from suzoo.engine import RandomBatches, batch_coupled_backward, fit, full_state_dict, run_script
from suzoo.evaluation import pair_cosines, pair_metrics, retrieval_metrics
from suzoo.hub.publish import publish
from suzoo.losses import SoftmaxPairLoss, cosent_loss
from suzoo.models import CoSENTModel
from suzoo.optimizers import AdaFactor, AdaX, Lion, Tiger, get_schedule, param_groups

OPTIMIZERS = {"adamw": torch.optim.AdamW, "adafactor": AdaFactor, "adax": AdaX, "lion": Lion, "tiger": Tiger}


class SentenceBERT(nn.Module):
    """The encoder and the baseline's classifier as the one module that Accelerate prepares."""

    def __init__(self, encoder: CoSENTModel):
        super().__init__()
        self.encoder, self.loss = encoder, SoftmaxPairLoss(encoder.config.hidden_size)

    def forward(self, classes, **inputs):
        embeddings = self.encoder(**inputs).sentence_embedding
        return self.loss(embeddings[0::2], embeddings[1::2], classes)


def main() -> None:
    recipe = parse(RECIPES, __doc__)
    accelerator, run = recipe.start()

    # Data
    split = recipe.split or "train"
    dev_source, dev_split = recipe.dev or recipe.data, recipe.dev_split or (None if recipe.dev else "dev")
    options: dict[str, Any] = {"columns": recipe.columns, "skip_bad_rows": recipe.skip_bad_rows}
    train = read_pairs(recipe.data, split=split, max_rows=recipe.max_train_samples, **options)
    dev = read_pairs(dev_source, split=dev_split, max_rows=recipe.max_dev_samples, **options)
    check_labels(train)
    data = {"train": describe(recipe.data, split, train), "dev": describe(dev_source, dev_split, dev)}
    if recipe.ranked:
        ranked = read_ranked(recipe.ranked, split=recipe.ranked_split, **options)
        data["ranked"] = describe(recipe.ranked, recipe.ranked_split, ranked)

    # Model
    texts = [text for pair in train for text in (pair.text1, pair.text2)]
    tokenizer = recipe.load_tokenizer(texts)
    if recipe.model:
        model = CoSENTModel.from_pretrained(recipe.model, pooling=recipe.pooling, max_seq_length=recipe.max_length)
    else:
        model = CoSENTModel(BertConfig(**recipe.sizes(tokenizer)), pooling=recipe.pooling or "cls")
        model.max_seq_length = recipe.max_length
    model.tokenizer = tokenizer
    model.encoder = recipe.adapt(model.encoder)
    sharded = accelerator.distributed_type == DistributedType.FSDP
    whole = copy.deepcopy(model) if sharded else model  # no process can save or run its shards alone
    module = SentenceBERT(model) if recipe.loss == "sbert" else model

    # Examples: two tokenized texts and a label; a batch holds texts 2i and 2i + 1 of pair i, end to end
    ids = tokenizer(texts, truncation=True, max_length=recipe.max_length)["input_ids"]
    labels = [pair.label for pair in train]
    if recipe.loss == "sbert":
        labels = [int(label > recipe.class_threshold) for label in labels]
        if len(set(labels)) < 2:
            raise ValueError(f"--class-threshold {recipe.class_threshold} puts every training pair into one class")

    def collate(examples):
        batch = flat_batch([ids for first, second, _ in examples for ids in (first, second)], device=accelerator.device)
        return batch, torch.tensor([label for _, _, label in examples], device=accelerator.device)

    examples = list(zip(ids[0::2], ids[1::2], labels, strict=True))
    batches = RandomBatches(examples, collate=collate, **recipe.batch_options)
    num_steps = max(1, round(recipe.epochs * batches.steps_per_epoch))
    optimizer = recipe.choose(OPTIMIZERS)(param_groups(module, weight_decay=recipe.weight_decay), lr=recipe.lr)
    schedule = get_schedule(recipe.schedule, optimizer, num_steps=num_steps, warmup=recipe.warmup)
    module, optimizer = accelerator.prepare(module, optimizer)
    accelerator.init_trackers("suzoo")
    torch.manual_seed(recipe.seed + rank())  # from here on every rank draws its own dropout

    # Step
    def cosines(micro_batch):
        embeddings = module(**micro_batch[0]).sentence_embedding
        return F.cosine_similarity(embeddings[0::2], embeddings[1::2])

    def cosent_step(micro_batches):
        everywhere = gather(torch.cat([labels for _, labels in micro_batches]))

        def loss(scores):  # only scores and labels travel between processes
            return cosent_loss(gather(scores), everywhere, scale=recipe.scale)

        return {"loss": batch_coupled_backward(accelerator, module, micro_batches, cosines, loss)}

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
        sbert_step if recipe.loss == "sbert" else cosent_step,
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

    # Save, verify, push
    if sharded:
        whole.load_state_dict(full_state_dict(model))  # every process takes part
    accelerator.end_training()
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
