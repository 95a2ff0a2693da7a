"""Train a sentence encoder with CoSENT: `accelerate launch training/train_cosent.py RECIPE [--flags]`.

Reads in the order it runs: recipe, data, model, step, loop, evaluation, save, verify, push.
"""

from __future__ import annotations

from recipes.choices import choose_prompt, choose_tokenizer, make_encoder
from recipes.command_line import parse
from recipes.cosent import RECIPES
from recipes.frame import begin, finish, mixture_of, prepare, read, read_one, unsharded_copy
from recipes.losses import choose_loss
from recipes.modules import WithHead
from recipes.preflight import preflight
from recipes.step import sentence_backward

import torch

from suzoo.data import (
    WithLabels,
    check_labels,
    flat_batch,
    numbers,
    read_pairs,
    read_ranked,
    to_device,
    token_ids,
    tokenize_rows,
    tokenizer_key,
)
from suzoo.engine import RandomBatches, fit, run_script
from suzoo.evaluation import pair_cosines, pair_metrics, retrieval_metrics


def main() -> None:
    recipe = parse(RECIPES, __doc__)
    accelerator, run = begin(recipe)
    recipe.check_regularizers(accelerator, coupled=True, flat=True)

    # Data
    train, dev, provenance = read(recipe, read_pairs)
    check_labels(train, recipe.data_name)
    check_labels(dev, recipe.dev or recipe.data_name)
    if recipe.ranked:
        ranked, provenance["ranked"] = read_one(recipe, read_ranked, recipe.ranked, recipe.ranked_split)
    labels = numbers(train, "label")
    if recipe.loss == "sbert":
        labels = (labels > recipe.class_threshold).astype(int)
        if len(set(labels.tolist())) < 2:
            raise ValueError(f"--class-threshold {recipe.class_threshold} puts every training pair into one class")

    # Model
    tokenizer = choose_tokenizer(recipe, (text for pair in train for text in (pair.text1, pair.text2)))
    model = make_encoder(recipe, tokenizer)
    prompt = choose_prompt(recipe, accelerator, model)
    whole = unsharded_copy(accelerator, model)
    loss = choose_loss(recipe, model.embedding_size)
    module = WithHead(model, loss.head, per_example=2) if loss.head else model

    # Examples: two texts and a label; the texts of a batch lie end to end: 2i and 2i + 1 are those of pair i
    def encode(pairs, first):
        texts = [text for pair in pairs for text in (pair.text1, pair.text2)]
        ids = token_ids(tokenizer, model.as_read(texts, prompt), recipe.max_length)
        return {"text1": ids[0::2], "text2": ids[1::2]}

    def collate(examples):
        batch = flat_batch([ids for texts, _ in examples for ids in texts.values()], device=accelerator.device)
        return {**batch, **left_out}, to_device(torch.tensor([label for _, label in examples]), accelerator.device)

    left_out = {"prompt_length": model.prompt_tokens(tokenizer, prompt)}  # of the pooling
    key = ["pairs", recipe.max_length, model.as_read(["Aa"], prompt), tokenizer_key(tokenizer)]
    examples = WithLabels(tokenize_rows(train, encode, key=key, num_workers=recipe.num_workers), labels)
    batches = RandomBatches(examples, collate=collate, mixture=mixture_of(recipe, train), **recipe.batch_options)
    preflight(recipe, accelerator, run, tokenizer, module, batches, train, dev)
    module, optimizer, schedule, num_steps = prepare(recipe, accelerator, run, module, batches, provenance)

    # Step
    def step(micro_batches):
        return sentence_backward(recipe, accelerator, module, model, loss, micro_batches)

    # Loop
    def evaluate() -> dict[str, float]:
        cosines = pair_cosines(model.encode, dev, share=whole is model)  # a sharded model needs every process
        return pair_metrics(cosines, numbers(dev, "label"))

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
    found = {"dev": evaluate()}

    # Save, score, verify, push
    def score(whole):
        if recipe.ranked:
            found["ranked"] = retrieval_metrics(whole.encode, ranked)

    finish(recipe, accelerator, run, model, whole, tokenizer, found, provenance, score)


if __name__ == "__main__":
    run_script(main)
