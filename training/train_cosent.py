"""Train a sentence encoder with CoSENT: `accelerate launch training/train_cosent.py RECIPE [--flags]`.

Reads in the order it runs: recipe, data, model, step, loop, evaluation, save, verify, push.
"""

from __future__ import annotations

from functools import partial

from recipes.choices import choose_prompt, choose_tokenizer, make_encoder
from recipes.command_line import parse
from recipes.cosent import RECIPES
from recipes.frame import begin, finish, prepare, read, read_one, unsharded_copy
from recipes.modules import SentenceBERT
from recipes.step import mean_backward, of_passes, preferences, rdrop_of_scores, regularized

import torch
import torch.nn.functional as F

from suzoo.data import (
    WithLabels,
    check_labels,
    flat_batch,
    numbers,
    read_pairs,
    read_ranked,
    token_ids,
    tokenize_rows,
    tokenizer_key,
)
from suzoo.distributed import gather
from suzoo.engine import RandomBatches, batch_coupled_backward, fit, run_script
from suzoo.evaluation import pair_cosines, pair_metrics, retrieval_metrics
from suzoo.losses import angle_scores, cosent_loss


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
    model = make_encoder(recipe, tokenizer, pooling=recipe.pooling)
    prompt = choose_prompt(recipe, accelerator, model)
    whole = unsharded_copy(accelerator, model)
    module = SentenceBERT(model) if recipe.loss == "sbert" else model

    # Examples: two texts and a label; the texts of a batch lie end to end: 2i and 2i + 1 are those of pair i
    def encode(pairs, first):
        texts = [text for pair in pairs for text in (pair.text1, pair.text2)]
        ids = token_ids(tokenizer, model.as_read(texts, prompt), recipe.max_length)
        return {"text1": ids[0::2], "text2": ids[1::2]}

    def collate(examples):
        batch = flat_batch([ids for texts, _ in examples for ids in texts.values()], device=accelerator.device)
        return {**batch, **left_out}, torch.tensor([label for _, label in examples], device=accelerator.device)

    left_out = {"prompt_length": model.prompt_tokens(tokenizer, prompt)}  # of the pooling
    key = ["pairs", recipe.max_length, model.as_read(["Aa"], prompt), tokenizer_key(tokenizer)]
    examples = WithLabels(tokenize_rows(train, encode, key=key, num_workers=recipe.num_workers), labels)
    batches = RandomBatches(examples, collate=collate, **recipe.batch_options)
    module, optimizer, schedule, num_steps = prepare(recipe, accelerator, run, module, batches, provenance)

    # Step
    alike = angle_scores if recipe.loss == "angle" else F.cosine_similarity

    def scores(inputs):
        embeddings = module(**inputs).sentence_embedding
        return alike(embeddings[0::2], embeddings[1::2])

    def scores_of(micro_batch):
        return of_passes(scores, micro_batch[0], rdrop=recipe.rdrop)

    def cosent_step(micro_batches):
        everywhere = gather(torch.cat([labels for _, labels in micro_batches]))
        loss_of_one_pass = partial(cosent_loss, labels=everywhere, scale=recipe.scale)

        def loss(local):  # only scores and labels travel between processes
            return rdrop_of_scores(gather(local), loss_of_one_pass, alpha=recipe.rdrop, scale=recipe.scale)

        if len(micro_batches) > 1:
            return {"loss": batch_coupled_backward(accelerator, module, micro_batches, scores_of, loss)}
        value, numbers = regularized(
            recipe,
            lambda: loss(scores_of(micro_batches[0])),
            model,
            compute_logits=lambda: preferences(gather(scores(micro_batches[0][0])), recipe.scale),
        )
        accelerator.backward(value)
        return numbers

    def sbert_step(micro_batches):
        return mean_backward(accelerator, micro_batches, lambda batch: module(batch[1], **batch[0]))

    # Loop
    def evaluate() -> dict[str, float]:
        cosines = pair_cosines(model.encode, dev, share=whole is model)  # a sharded model needs every process
        return pair_metrics(cosines, numbers(dev, "label"))

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
    found = {"dev": evaluate()}

    # Save, score, verify, push
    def score(whole):
        if recipe.ranked:
            found["ranked"] = retrieval_metrics(whole.encode, ranked)

    finish(recipe, accelerator, run, model, whole, tokenizer, found, provenance, score)


if __name__ == "__main__":
    run_script(main)
