"""Train a UniLM sequence-to-sequence model: `accelerate launch training/train_unilm.py RECIPE [--flags]`.

Reads in the order it runs: recipe, data, model, step, loop, evaluation, save, verify, push.
"""

from __future__ import annotations

from functools import partial

from recipes.choices import check_belongs_together, choose_tokenizer, configure, set_dropout
from recipes.command_line import parse
from recipes.frame import begin, finish, prepare, unsharded_copy
from recipes.generation import OWN_METRICS, check_search, in_search, make_seq2seq_model, texts_of, title_scores
from recipes.labelled import (
    LabelledLoss,
    choose_head,
    dev_batches,
    dev_loss,
    finished_tokenizer,
    labelled_batch,
    next_token,
    num_labels,
    read_or_stream,
    token_batches,
)
from recipes.losses import choose_token_loss
from recipes.preflight import preflight
from recipes.unilm import RECIPES

from suzoo.data import (
    encode_sources_targets,
    read_seq2seq,
    seq2seq_tokenizer,
    tokenize_rows,
    tokenizer_key,
    unilm_batch,
)
from suzoo.engine import fit, run_script, token_mean_backward
from suzoo.optimizers import ParameterSearch
from suzoo.regularizers import fgm, random_replacement, repeat_rows


def main() -> None:
    recipe = parse(RECIPES, __doc__)
    accelerator, run = begin(recipe)
    check_search(recipe, accelerator)

    # Data
    train, dev, provenance = read_or_stream(recipe, read_seq2seq)

    # Model
    texts = (text for row in train for text in (row.source, row.target))
    tokenizer = seq2seq_tokenizer(choose_tokenizer(recipe, texts, needs=("cls", "sep", "pad")))
    generation = {"max_new_tokens": recipe.max_target_length, "num_beams": recipe.num_beams}
    model = make_seq2seq_model(recipe, tokenizer, recipe.scratch_fields, **generation)
    tokenizer = finished_tokenizer(recipe, tokenizer, model)
    head = choose_head(recipe, model, tokenizer.sep_token_id)
    check_belongs_together(recipe, model, tokenizer)
    set_dropout(recipe, model)
    model.bert = configure(recipe, model.bert, tokenizer, model.get_output_embeddings())  # ty: ignore[invalid-assignment]
    whole = unsharded_copy(accelerator, model)

    # Examples: [CLS] source [SEP] target [SEP], labels where the next token is one of the target
    budgets = recipe.token_budgets

    def encode(rows, first):
        texts = [row.source for row in rows], [row.target for row in rows]
        return encode_sources_targets(tokenizer, *texts, **budgets)

    def collate(examples):
        batch = unilm_batch(examples, pad_token_id=tokenizer.pad_token_id)
        return {**batch, "labels": next_token(batch["labels"])}

    key = ["seq2seq", budgets, tokenizer_key(tokenizer)]
    batches = token_batches(recipe, run, train, encode, key, collate)
    held_out = dev_batches(recipe, tokenize_rows(dev, encode, key=key), collate)
    search: list[ParameterSearch] = []
    module = LabelledLoss(model, choose_token_loss(recipe), recipe.chunk_size, head)
    preflight(recipe, accelerator, run, tokenizer, module, batches, train, dev)
    module, optimizer, schedule, num_steps = prepare(
        recipe, accelerator, run, module, batches, provenance, partial(in_search, recipe, search)
    )

    # Step
    def batch_loss(batch, num_tokens):
        if recipe.random_replacement:
            target = (batch["token_type_ids"] == 1) & (batch["input_ids"] != tokenizer.sep_token_id)
            ids = random_replacement(batch["input_ids"], target, prob=recipe.random_replacement)
            batch = {**batch, "input_ids": ids}
        batch = labelled_batch(repeat_rows(batch) if recipe.rdrop else batch, accelerator.device)

        def mean():
            return module(**batch) / num_tokens

        return fgm(mean, model.get_input_embeddings(), epsilon=recipe.fgm) if recipe.fgm else mean()

    def own_metric(sources, references) -> float:
        return OWN_METRICS[recipe.own_metric](model.generate_texts(sources, tokenizer=tokenizer), references)

    def step(micro_batches):
        loss = token_mean_backward(accelerator, module, micro_batches, num_labels, batch_loss)
        if search:  # the optimizer calls it for every candidate
            both = [texts_of(micro_batches, tokenizer, token_type) for token_type in (0, 1)]
            search[0].task_loss = lambda: 1 - own_metric(*both)
        return {"loss": loss}

    # Loop
    scored = dev[: recipe.max_scored]

    def evaluate() -> dict[str, float]:
        scores = dev_loss(module, held_out, accelerator.device)
        if search:
            scores[recipe.own_metric] = own_metric([row.source for row in scored], [row.target for row in scored])
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
    )
    scores = {"dev": evaluate()}

    # Save, score, verify, push
    def score(whole):
        if scored:
            scores["generated"] = title_scores(whole, tokenizer, scored)

    finish(recipe, accelerator, run, model, whole, tokenizer, scores, provenance, score)


if __name__ == "__main__":
    run_script(main)
