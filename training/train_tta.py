"""Train a T-TA, or a plain masked language model beside it: `accelerate launch training/train_tta.py RECIPE [--flags]`.

Reads in the order it runs: recipe, data, model, step, loop, evaluation, save, verify, push.
"""

from __future__ import annotations

from typing import Any

from recipes.choices import check_belongs_together, choose_tokenizer, configure, set_dropout, sizes
from recipes.command_line import parse
from recipes.frame import begin, finish, prepare, read_one, unsharded_copy
from recipes.generation import pseudo_perplexity, read_confusion_sets, typo_scores
from recipes.labelled import (
    LabelledLoss,
    dev_batches,
    dev_loss,
    finished_tokenizer,
    labelled_batch,
    num_labels,
    read_or_stream,
    token_batches,
)
from recipes.losses import choose_token_loss
from recipes.preflight import preflight
from recipes.tta import RECIPES

import torch
from transformers import BertConfig, BertForMaskedLM

from suzoo.data import (
    encode_sentences,
    encode_word_lists,
    masked_batch,
    read_seq2seq,
    read_texts,
    segment_chinese,
    tokenize_rows,
    tokenizer_key,
    tta_batch,
)
from suzoo.engine import fit, run_script, token_mean_backward
from suzoo.models import TTAConfig, TTAForMaskedLM

WORDS = {"single": lambda text: [text], "blanks": str.split, "jieba": segment_chinese}


def main() -> None:
    recipe = parse(RECIPES, __doc__)
    is_tta = recipe.objective == "tta"
    accelerator, run = begin(recipe)

    # Data
    train, dev, provenance = read_or_stream(recipe, read_texts)
    if recipe.typos:
        split = "dev" if recipe.typos.startswith("embedded:") else None
        typos, provenance["typos"] = read_one(recipe, read_seq2seq, recipe.typos, split, columns=())
        confusion = read_confusion_sets(recipe.confusion)

    # Model
    tokenizer = choose_tokenizer(recipe, train, needs=("cls", "sep", "mask", "pad"))
    ids: dict[str, Any] = {"bos_token_id": tokenizer.cls_token_id, "eos_token_id": tokenizer.sep_token_id}
    queries = {"mask_token_id": tokenizer.mask_token_id}  # a BERT does not say where its [MASK] is
    if recipe.model and is_tta:
        model = TTAForMaskedLM.from_pretrained(recipe.model_folder, dtype=recipe.weights_dtype, **queries)
    elif recipe.model:
        model = BertForMaskedLM.from_pretrained(recipe.model_folder, dtype=recipe.weights_dtype)
    elif is_tta:
        fields: dict[str, Any] = {**sizes(recipe, tokenizer), **ids, **queries, "query_init": recipe.query_init}
        model = TTAForMaskedLM(TTAConfig(**fields, **recipe.scratch_fields))
    else:
        model = BertForMaskedLM(BertConfig(**sizes(recipe, tokenizer), initializer_range=recipe.init_std))
    tokenizer = finished_tokenizer(recipe, tokenizer, model)
    check_belongs_together(recipe, model, tokenizer)
    set_dropout(recipe, model)
    model.bert = configure(recipe, model.bert, tokenizer, model.get_output_embeddings())  # ty: ignore[invalid-assignment]
    whole = unsharded_copy(accelerator, model)

    # Examples: a sentence and, for masking, the words its tokens belong to
    def encode(texts, first):
        if is_tta:
            return encode_sentences(tokenizer, texts, first, max_tokens=recipe.max_length, seed=recipe.seed)
        return encode_word_lists(tokenizer, [WORDS[recipe.words](text) for text in texts], max_tokens=recipe.max_length)

    def collate(examples, generator):
        if is_tta:
            return tta_batch(examples, pad_token_id=tokenizer.pad_token_id)
        options = {"probability": recipe.mask_probability, "whole_words": recipe.words != "single"}
        return masked_batch(examples, tokenizer=tokenizer, generator=generator, **options)

    key = [recipe.objective, recipe.words, recipe.max_length, recipe.seed, tokenizer_key(tokenizer)]
    batches = token_batches(recipe, run, train, encode, key, collate, draws=True)
    # the dev loss of a masked model hides the same tokens every time
    hidden_in_dev = torch.Generator().manual_seed(0)
    held_out = tokenize_rows(dev, encode, key=key, num_workers=recipe.num_workers)
    held_out = dev_batches(recipe, held_out, lambda rows: collate(rows, hidden_in_dev))
    module = LabelledLoss(model, choose_token_loss(recipe), recipe.chunk_size)
    preflight(recipe, accelerator, run, tokenizer, module, batches, train, dev)
    module, optimizer, schedule, num_steps = prepare(recipe, accelerator, run, module, batches, provenance)

    # Step
    def batch_loss(batch, num_tokens):
        return module(**labelled_batch(batch, accelerator.device)) / num_tokens

    def step(micro_batches):
        return {"loss": token_mean_backward(accelerator, module, micro_batches, num_labels, batch_loss)}

    # Loop
    def evaluate() -> dict[str, float]:
        return dev_loss(module, held_out, accelerator.device)

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
        if recipe.max_scored:
            found = pseudo_perplexity(whole, tokenizer, dev[: recipe.max_scored], recipe.max_length)
            scores["dev"]["pseudo_perplexity"] = found
        if recipe.typos:
            scores["typos"] = typo_scores(whole, tokenizer, typos, confusion)

    finish(recipe, accelerator, run, model, whole, tokenizer, scores, provenance, score)


if __name__ == "__main__":
    run_script(main)
