"""Train one sentence encoder on two tasks: `accelerate launch training/train_two_tasks.py RECIPE [--flags]`.

The first is similarity, by CoSENT; the second names the class of a text. Reads in the order it runs: recipe, data,
model, step, loop, evaluation, save, verify, push.
"""

from __future__ import annotations

from functools import partial

from recipes.choices import choose_prompt, choose_tokenizer, make_encoder
from recipes.command_line import parse
from recipes.frame import begin, finish, prepare, read, read_one, unsharded_copy
from recipes.modules import WEIGHTINGS, TwoTasks, read_second_task, save_second_task, second_task_scores
from recipes.step import mean_backward, of_passes, preferences, rdrop_of_scores, regularized
from recipes.two_tasks import RECIPES

import torch
import torch.nn.functional as F

from suzoo.data import check_labels, flat_batch, read_pairs, read_ranked
from suzoo.distributed import gather
from suzoo.engine import MixedBatches, RandomBatches, batch_coupled_backward, fit, full_state_dict, run_script
from suzoo.evaluation import pair_cosines, pair_metrics, retrieval_metrics
from suzoo.losses import cosent_loss, cross_entropy_loss
from suzoo.multitask import multitask_backward


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
    also, also_dev, classes = read_second_task(recipe, provenance)

    # Model
    texts = [text for pair in train for text in (pair.text1, pair.text2)]
    tokenizer = choose_tokenizer(recipe, [*texts, *(text for text, _ in also)])
    model = make_encoder(recipe, tokenizer, pooling=recipe.pooling)
    prompt = choose_prompt(recipe, accelerator, model)
    if model.prompt_tokens(tokenizer, prompt):
        raise ValueError(f"{recipe.model} pools without its prompt, which two tasks cannot: give --prompt ''")
    whole = unsharded_copy(accelerator, model)
    both = TwoTasks(model, len(classes))

    # Examples: texts and a label, the texts of a batch end to end: 2i and 2i + 1 are those of pair i
    def encode(texts):
        return tokenizer(model.as_read(texts, prompt), truncation=True, max_length=recipe.max_length)["input_ids"]

    def collate(examples):
        batch = flat_batch([ids for texts, _ in examples for ids in texts], device=accelerator.device)
        return batch, torch.tensor([label for _, label in examples], device=accelerator.device)

    ids = encode(texts)
    examples = {
        "similarity": zip(zip(ids[0::2], ids[1::2], strict=True), [pair.label for pair in train], strict=True),
        "also": (((ids,), number) for ids, (_, number) in zip(encode([text for text, _ in also]), also, strict=True)),
    }
    parts = {
        task: RandomBatches(list(rows), collate=collate, **recipe.batch_options) for task, rows in examples.items()
    }
    batches = MixedBatches(parts, mix=recipe.mix, seed=recipe.seed)
    told = " and ".join(f"{part.steps_per_epoch} batches of {name}" for name, part in parts.items())
    accelerator.print(f"two tasks, {recipe.mix}: {told} are one pass over each")
    module, optimizer, schedule, num_steps = prepare(recipe, accelerator, run, both, batches, provenance)

    # Step
    def cosines(inputs):
        embeddings = module(**inputs).sentence_embedding
        return F.cosine_similarity(embeddings[0::2], embeddings[1::2])

    def scores_of(micro_batch):
        return of_passes(cosines, micro_batch[0], rdrop=recipe.rdrop)

    def cosent(micro_batches):
        """scores of the step -> loss; only scores and labels travel between processes."""
        everywhere = gather(torch.cat([labels for _, labels in micro_batches]))
        loss = partial(cosent_loss, labels=everywhere, scale=recipe.scale)
        return lambda scores: rdrop_of_scores(gather(scores), loss, alpha=recipe.rdrop, scale=recipe.scale)

    def similarity_loss(batch):
        loss, logits = cosent([batch]), lambda: preferences(gather(cosines(batch[0])), recipe.scale)
        return regularized(recipe, lambda: loss(scores_of(batch)), model, compute_logits=logits)

    def also_loss(batch):
        return recipe.also_weight * cross_entropy_loss(module(classify=True, **batch[0]), batch[1])

    def step(tagged):
        pairs, texts = ([batch for name, batch in tagged if name == task] for task in parts)
        losses, weighted = {}, {}
        if recipe.weighting != "sum":
            tasks = similarity_loss(pairs[0])[0], also_loss(texts[0])
            weights = multitask_backward(tasks, model.parameters(), WEIGHTINGS[recipe.weighting])
            losses = {"similarity_loss": tasks[0].detach(), "also_loss": tasks[1].detach()}
            weighted = {"similarity_weight": weights[0], "also_weight": weights[1]}
        elif len(pairs) > 1:
            losses["similarity_loss"] = batch_coupled_backward(accelerator, module, pairs, scores_of, cosent(pairs))
        elif pairs:
            losses["similarity_loss"] = mean_backward(accelerator, pairs, similarity_loss)["loss"]
        if texts and recipe.weighting == "sum":
            losses["also_loss"] = mean_backward(accelerator, texts, also_loss)["loss"]
        return {"loss": sum(losses.values()), **losses, **weighted}

    # Loop
    def evaluate() -> dict[str, float]:
        return pair_metrics(pair_cosines(model.encode, dev), [pair.label for pair in dev])

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
        scores["ranked"] = retrieval_metrics(model.encode, ranked)
    if also_dev:
        texts, numbers = zip(*also_dev, strict=True)
        scores["also_dev"] = second_task_scores(module, encode(list(texts)), numbers, accelerator.device)

    # Save, verify, push
    head = full_state_dict(both.head)  # every process takes part

    def save_head(whole):
        save_second_task(run.path, head, classes)

    finish(recipe, accelerator, run, model, whole, tokenizer, scores, provenance, save_head)


if __name__ == "__main__":
    run_script(main)
