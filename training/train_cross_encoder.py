"""Train a cross-encoder with CoSENT: `accelerate launch training/train_cross_encoder.py RECIPE [--flags]`.

Reads in the order it runs: recipe, data, model, step, loop, evaluation, save, verify, push.
"""

from __future__ import annotations

from recipes.choices import check_belongs_together, choose_prompt, choose_tokenizer, configure, set_dropout, sizes
from recipes.command_line import parse
from recipes.cross_encoder import RECIPES
from recipes.frame import begin, finish, prepare, read, read_one, unsharded_copy
from recipes.step import of_passes, preferences, rdrop_of_scores, regularized

import torch
import torch.nn.functional as F
from transformers import BertConfig

from suzoo.data import check_labels, flat_batch, read_pairs, read_ranked
from suzoo.distributed import gather
from suzoo.engine import RandomBatches, batch_coupled_backward, fit, run_script
from suzoo.evaluation import pair_metrics, reranking_metrics
from suzoo.losses import cosent_loss
from suzoo.models import CoSENTCrossEncoder


def main() -> None:
    recipe = parse(RECIPES, __doc__)
    accelerator, run = begin(recipe)
    recipe.check_regularizers(accelerator, coupled=True, flat=True)

    # Data
    train, dev, provenance = read(recipe, read_pairs)
    check_labels(train, recipe.data)
    check_labels(dev, recipe.dev_data[0])
    if recipe.ranked:
        ranked, provenance["ranked"] = read_one(recipe, read_ranked, recipe.ranked, recipe.ranked_split)
    if recipe.loss == "bce" and not all(0 <= pair.label <= 1 for pair in train):
        raise ValueError("--loss bce takes labels from 0 to 1; grades beyond that need --loss cosent")

    # Model
    tokenizer = choose_tokenizer(recipe, [text for pair in train for text in (pair.text1, pair.text2)])
    if recipe.model:
        model = CoSENTCrossEncoder.from_pretrained(
            recipe.model, max_seq_length=recipe.max_length, trust_remote_code=recipe.trust_remote_code
        )
    else:
        model = CoSENTCrossEncoder(BertConfig(**sizes(recipe, tokenizer)))
        model.max_seq_length = recipe.max_length
    model.tokenizer = tokenizer
    check_belongs_together(recipe, model.encoder, tokenizer)
    set_dropout(recipe, model)
    model.encoder = configure(recipe, model.encoder, tokenizer, ragged=True)
    prompt = choose_prompt(recipe, accelerator, model)
    whole = unsharded_copy(accelerator, model)

    # Examples: token ids and types of a pair, and its label; the pairs of a batch lie end to end
    pairs = tokenizer(
        model.as_read([pair.text1 for pair in train], prompt),
        model.as_read([pair.text2 for pair in train]),
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
    module, optimizer, schedule, num_steps = prepare(recipe, accelerator, run, model, batches, provenance)

    # Step
    def logits(inputs):
        return module(**inputs).logits[:, 0].float()

    def scores_of(micro_batch):
        return of_passes(logits, micro_batch[0], rdrop=recipe.rdrop)

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
        value, numbers = regularized(
            recipe,
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
    finish(recipe, accelerator, run, model, whole, tokenizer, scores, provenance)


if __name__ == "__main__":
    run_script(main)
