"""Train a cross-encoder with CoSENT: `accelerate launch training/train_cross_encoder.py RECIPE [--flags]`.

Reads in the order it runs: recipe, data, model, step, loop, evaluation, save, verify, push.
"""

from __future__ import annotations

from functools import partial

from recipes.choices import choose_prompt, choose_tokenizer, make_cross_encoder
from recipes.command_line import parse
from recipes.cross_encoder import RECIPES
from recipes.frame import begin, finish, mixture_of, prepare, read, read_one, unsharded_copy
from recipes.preflight import preflight
from recipes.step import SentenceLoss, of_passes, preferences, rdrop_of_scores, sentence_backward

import torch
import torch.nn.functional as F

from suzoo.data import (
    WithLabels,
    check_labels,
    flat_batch,
    numbers,
    read_pairs,
    read_ranked,
    to_device,
    tokenize_rows,
    tokenizer_key,
)
from suzoo.distributed import gather, gather_all
from suzoo.engine import RandomBatches, fit, run_script
from suzoo.evaluation import pair_metrics, reranking_metrics
from suzoo.losses import cosent_loss


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
    if recipe.loss == "bce" and not (labels.min() >= 0 and labels.max() <= 1):
        raise ValueError("--loss bce takes labels from 0 to 1; grades beyond that need --loss cosent")

    # Model
    tokenizer = choose_tokenizer(recipe, (text for pair in train for text in (pair.text1, pair.text2)))
    model = make_cross_encoder(recipe, tokenizer)
    prompt = choose_prompt(recipe, accelerator, model)
    whole = unsharded_copy(accelerator, model)

    # Examples: token ids and types of a pair, and its label; the pairs of a batch lie end to end
    def encode(pairs, first):
        texts = [pair.text1 for pair in pairs], [pair.text2 for pair in pairs]
        options = {"truncation": "longest_first", "max_length": recipe.max_length, "return_attention_mask": False}
        return dict(tokenizer(model.as_read(texts[0], prompt), model.as_read(texts[1]), **options))

    def collate(examples):
        found, labels = zip(*examples, strict=True)
        ids = [example["input_ids"] for example in found]
        types = [example["token_type_ids"] for example in found] if "token_type_ids" in found[0] else None
        return flat_batch(ids, types, device=accelerator.device), to_device(torch.tensor(labels), accelerator.device)

    key = ["pairs together", recipe.max_length, model.as_read(["Aa"], prompt), tokenizer_key(tokenizer)]
    examples = WithLabels(tokenize_rows(train, encode, key=key, num_workers=recipe.num_workers), labels)
    batches = RandomBatches(examples, collate=collate, mixture=mixture_of(recipe, train), **recipe.batch_options)
    preflight(recipe, accelerator, run, tokenizer, model, batches, train, dev)
    module, optimizer, schedule, num_steps = prepare(recipe, accelerator, run, model, batches, provenance)

    # Step
    def logits(module, inputs):
        return module(**inputs).logits[:, 0].float()

    def loss_of(scores, labels):  # only scores and labels travel between processes
        scores, labels = gather_all(scores, labels)
        if recipe.loss == "bce":
            one_pass = partial(F.binary_cross_entropy_with_logits, target=labels)
        else:
            one_pass = partial(cosent_loss, labels=labels, scale=recipe.scale)
        return rdrop_of_scores(scores, one_pass, alpha=recipe.rdrop, scale=recipe.scale)

    loss = SentenceLoss(
        lambda module, inputs: of_passes(partial(logits, module), inputs, rdrop=recipe.rdrop),
        loss_of,
        over_step=True,
        prediction=lambda module, inputs: preferences(gather(logits(module, inputs)), recipe.scale),
    )

    def step(micro_batches):
        return sentence_backward(recipe, accelerator, module, model, loss, micro_batches)

    # Loop
    def evaluate() -> dict[str, float]:
        scores = model.predict([(pair.text1, pair.text2) for pair in dev])
        return pair_metrics(scores, numbers(dev, "label"))

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

    # Save, score, verify, push
    def score(whole):
        if recipe.ranked:
            scores["ranked"] = reranking_metrics(whole.predict, ranked)

    finish(recipe, accelerator, run, model, whole, tokenizer, scores, provenance, score)


if __name__ == "__main__":
    run_script(main)
