"""Train a sentence encoder by contrast: `accelerate launch training/train_contrastive.py RECIPE [--flags]`.

From queries with positives and hard negatives, from plain texts (SimCSE) or from texts with classes. Reads in the order
it runs: recipe, data, model, step, loop, evaluation, save, verify, push.
"""

from __future__ import annotations

from recipes.choices import choose_tokenizer, make_encoder
from recipes.command_line import parse
from recipes.contrastive import RECIPES
from recipes.contrastive_data import examples_of, nearest_class_accuracy, read_examples, texts_of, tokens_of
from recipes.frame import begin, finish, mixture_of, prepare, unsharded_copy
from recipes.losses import choose_loss
from recipes.modules import WithHead
from recipes.preflight import preflight
from recipes.step import sentence_backward

import numpy as np
import torch

from suzoo.data import flat_batch, to_device, token_ids, tokenize_rows, tokenizer_key
from suzoo.engine import RandomBatches, fit, run_script
from suzoo.evaluation import pair_cosines, pair_metrics, retrieval_metrics


def main() -> None:
    recipe = parse(RECIPES, __doc__)
    accelerator, run = begin(recipe)

    # Data: per example the texts that meet the model, the same number for all, and two numbers that say who is alike
    train, dev, provenance = read_examples(recipe)
    examples, classes = examples_of(recipe, train)

    # Model
    tokenizer = choose_tokenizer(recipe, (text for row in train for text in texts_of(row)))
    model = make_encoder(recipe, tokenizer)
    whole = unsharded_copy(accelerator, model)
    per_example = examples.places.shape[1]
    loss = choose_loss(recipe, model.embedding_size, per_example=per_example, num_classes=len(classes))
    module = WithHead(model, loss.head, per_example) if loss.head else model

    # Examples: the texts of a batch lie end to end, those of one example side by side
    def encode(rows, first):
        return tokens_of(lambda texts: token_ids(tokenizer, texts, recipe.max_length), rows)

    def collate(examples):
        rows, alike = zip(*examples, strict=True)
        batch = flat_batch([text for row in rows for text in row], device=accelerator.device)
        return batch, to_device(torch.from_numpy(np.stack(alike)), accelerator.device)

    key = ["texts of rows", recipe.max_length, tokenizer_key(tokenizer)]
    examples.tokens = tokenize_rows(train, encode, key=key, num_workers=recipe.num_workers)
    mixture = mixture_of(recipe, train, examples.sizes(train.sizes))
    batches = RandomBatches(examples, collate=collate, mixture=mixture, **recipe.batch_options)
    preflight(recipe, accelerator, run, tokenizer, module, batches, train, dev)
    module, optimizer, schedule, num_steps = prepare(recipe, accelerator, run, module, batches, provenance)

    # Step
    def step(micro_batches):
        return sentence_backward(recipe, accelerator, module, model, loss, micro_batches)

    # Loop
    def evaluate() -> dict[str, float]:
        if recipe.takes_classes:
            return {"accuracy": nearest_class_accuracy(model.encode, dev)}
        if recipe.examples == "texts":
            return pair_metrics(pair_cosines(model.encode, dev), [pair.label for pair in dev])
        return retrieval_metrics(model.encode, dev)

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

    # Save, verify, push
    finish(recipe, accelerator, run, model, whole, tokenizer, scores, provenance)


if __name__ == "__main__":
    run_script(main)
