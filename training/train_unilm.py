"""Train a UniLM sequence-to-sequence model: `accelerate launch training/train_unilm.py RECIPE [--flags]`.

Reads in the order it runs: recipe, data, model, step, loop, evaluation, save, verify, push.
"""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import torch
from accelerate.utils import DistributedType
from transformers import GenerationConfig

from recipes._base import parse
from recipes._language_model import (
    LabelledLoss,
    dev_loss,
    finished_tokenizer,
    next_token,
    num_labels,
    smoothed,
)
from recipes.unilm import RECIPES
from suzoo.data import describe, encode_source_target, read_seq2seq, unilm_batch
from suzoo.distributed import rank
from suzoo.engine import end_training, fit, full_state_dict, run_script, token_mean_backward
from suzoo.evaluation import article_scores, distinct_n_mean, generation_scores
from suzoo.hub.publish import publish
from suzoo.losses import rdrop_loss, tailr_loss
from suzoo.models import UniLMConfig, UniLMForCausalLM
from suzoo.optimizers import ParameterSearch
from suzoo.regularizers import fgm, random_replacement, repeat_rows


def rdrop(logits, labels, *, alpha: float, reduction):
    """R-Drop on rows that `repeat_rows` doubled: the second half are the same tokens under another dropout."""
    (first, second), (labels, _) = logits.chunk(2), labels.chunk(2)
    return rdrop_loss(first, second, labels, alpha=alpha, reduction=reduction)


# texts and references -> score, larger is better
OWN_METRICS = {
    "rouge_l": lambda texts, references: generation_scores(texts, references)["rouge_l"],
    "distinct_2": lambda texts, references: distinct_n_mean(texts, 2),
}


def main() -> None:
    recipe = parse(RECIPES, __doc__)
    if sum(value > 0 for value in (recipe.tailr, recipe.rdrop, recipe.label_smoothing)) > 1:
        raise ValueError("--tailr, --rdrop and --label-smoothing are three losses: choose one")
    if recipe.rdrop and recipe.chunk_size:
        raise ValueError("--rdrop compares two passes over all tokens, which --chunk-size takes apart: choose one")
    accelerator, run = recipe.start()
    sharded = accelerator.distributed_type == DistributedType.FSDP
    copies = accelerator.distributed_type == DistributedType.DEEPSPEED
    if recipe.own_metric != "none" and (sharded or copies or not recipe.max_scored):
        raise ValueError("--own-metric writes texts with disturbed weights: DDP only, and --max-scored above 0")

    # Data
    split = recipe.split or "train"
    dev_source, dev_split = recipe.dev_data
    options: dict[str, Any] = {"columns": recipe.columns, "skip_bad_rows": recipe.skip_bad_rows}
    train = read_seq2seq(recipe.data, split=split, max_rows=recipe.max_train_samples, **options)
    dev = read_seq2seq(dev_source, split=dev_split, max_rows=recipe.max_dev_samples, **options)
    data = {"train": describe(recipe.data, split, train), "dev": describe(dev_source, dev_split, dev)}

    # Model
    tokenizer = recipe.load_tokenizer(
        (text for row in train for text in (row.source, row.target)), needs=("cls", "sep", "pad")
    )
    if recipe.model:
        model = UniLMForCausalLM.from_pretrained(recipe.model)
    else:
        ids = {"bos_token_id": tokenizer.cls_token_id, "eos_token_id": tokenizer.sep_token_id}
        model = UniLMForCausalLM(
            UniLMConfig(**recipe.sizes(tokenizer), **ids, position_embedding_type=recipe.positions)
        )
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
        pad_token_id=tokenizer.pad_token_id,
        max_new_tokens=recipe.max_target_length,
        num_beams=recipe.num_beams,
    )
    tokenizer = finished_tokenizer(tokenizer, model)
    head = recipe.choose_head(model, tokenizer.sep_token_id)
    if head is not None and (recipe.tailr or recipe.rdrop):
        raise ValueError("--self-terminating has a loss of its own: no --tailr and no --rdrop")
    recipe.check_fit(model, tokenizer)
    recipe.set_dropout(model)
    model.bert = recipe.adapt(model.bert, tokenizer, model.get_output_embeddings())  # ty: ignore[invalid-assignment]
    whole = copy.deepcopy(model).eval() if sharded else model  # no process can save or run its shards alone
    loss = smoothed(recipe.label_smoothing)
    if recipe.tailr:
        loss = partial(tailr_loss, gamma=recipe.tailr)
    elif recipe.rdrop:
        loss = partial(rdrop, alpha=recipe.rdrop)
    module = LabelledLoss(model, loss, recipe.chunk_size, head)

    # Examples: [CLS] source [SEP] target [SEP], labels where the next token is one of the target
    def encode(row):
        budgets = {
            "max_source_tokens": recipe.max_length - recipe.max_target_length,
            "max_target_tokens": recipe.max_target_length,
        }
        return encode_source_target(tokenizer, row.source, row.target, **budgets)

    def collate(examples):
        batch = unilm_batch(examples, pad_token_id=tokenizer.pad_token_id)
        return {**batch, "labels": next_token(batch["labels"])}

    batches = recipe.batches([encode(row) for row in train], collate)
    dev_batches = recipe.dev_batches([encode(row) for row in dev], collate)
    num_steps = max(1, round(recipe.epochs * batches.steps_per_epoch))
    optimizer = recipe.choose_optimizer(module)
    search = None
    if recipe.own_metric != "none":
        beta, noise = recipe.search_beta, recipe.search_noise
        optimizer = search = ParameterSearch(
            optimizer, num_candidates=recipe.search_candidates, beta=beta, noise=noise, seed=recipe.seed
        )
    schedule = recipe.choose_schedule(optimizer, num_steps)
    module, optimizer = accelerator.prepare(module, optimizer)
    run.start(accelerator, recipe, data)
    torch.manual_seed(recipe.seed + rank())  # from here on every rank draws its own dropout

    # Step
    def batch_loss(batch, num_tokens):
        batch = {name: tensor.to(accelerator.device) for name, tensor in batch.items()}
        if recipe.random_replacement:
            target = (batch["token_type_ids"] == 1) & (batch["input_ids"] != tokenizer.sep_token_id)
            batch["input_ids"] = random_replacement(batch["input_ids"], target, prob=recipe.random_replacement)
        batch = repeat_rows(batch) if recipe.rdrop else batch

        def mean():
            return module(**batch) / num_tokens

        return fgm(mean, model.get_input_embeddings(), epsilon=recipe.fgm) if recipe.fgm else mean()

    def own_metric(sources, references) -> float:
        return OWN_METRICS[recipe.own_metric](model.generate_texts(sources, tokenizer=tokenizer), references)

    def texts(micro_batches, token_type) -> list[str]:
        rows = []
        for batch in micro_batches:
            wanted = (batch["token_type_ids"] == token_type) & batch["attention_mask"].bool()
            rows += [ids[mask] for ids, mask in zip(batch["input_ids"], wanted, strict=True)]
        return tokenizer.batch_decode(rows, skip_special_tokens=True)

    def step(micro_batches):
        loss = token_mean_backward(accelerator, module, micro_batches, num_labels, batch_loss)
        if search is not None:  # the optimizer calls it for every candidate
            sources, targets = texts(micro_batches, 0), texts(micro_batches, 1)
            search.task_loss = lambda: 1 - own_metric(sources, targets)
        return {"loss": loss}

    # Loop
    def evaluate() -> dict[str, float]:
        scores = dev_loss(module, dev_batches, accelerator.device)
        if search is not None:
            rows = dev[: recipe.max_scored]
            scores[recipe.own_metric] = own_metric([row.source for row in rows], [row.target for row in rows])
        return scores

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
        **recipe.loss_options,
    )
    scores = {"dev": evaluate()}

    # Save, score, verify, push
    if sharded:
        whole.load_state_dict(full_state_dict(model))  # every process takes part
    end_training(accelerator)
    if recipe.lora_r:
        whole.bert = whole.bert.merge_and_unload()  # ty: ignore[not-callable]
    if accelerator.is_main_process:
        whole.save_pretrained(run.path)
        tokenizer.save_pretrained(run.path)
        if recipe.max_scored:
            rows = dev[: recipe.max_scored]
            titles = whole.generate_texts([row.source for row in rows], tokenizer=tokenizer)
            references = [row.target for row in rows]
            scores["generated"] = generation_scores(titles, references) | article_scores(titles, references)
            scores["generated"]["distinct_2"] = distinct_n_mean(titles, 2)
            print("\n".join(f"{title}  <- {row.source[:40]}…" for title, row in zip(titles[:3], rows, strict=False)))
        run.finish(recipe, scores, script="training/train_unilm.py", data=data)
        publish(whole, tokenizer, run.path, recipe.push_to)


if __name__ == "__main__":
    run_script(main)
