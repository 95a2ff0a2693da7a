"""Train a dialogue language model: `accelerate launch training/train_dialogpt.py RECIPE [--flags]`.

Reads in the order it runs: recipe, data, model, step, loop, evaluation, save, verify, push.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from recipes.choices import check_belongs_together, choose_tokenizer, configure, set_dropout
from recipes.command_line import parse
from recipes.dialogpt import RECIPES
from recipes.frame import begin, finish, prepare, unsharded_copy
from recipes.generation import make_chat_model, prompt_budget, reply_scores
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

from suzoo.data import (
    Turn,
    chat_tokenizer,
    dialogue_batch,
    encode_dialogues,
    read_dialogues,
    tokenize_rows,
    tokenizer_key,
)
from suzoo.engine import fit, run_script, token_mean_backward
from suzoo.models import DialoGPTForCausalLM


def main() -> None:
    recipe = parse(RECIPES, __doc__)
    accelerator, run = begin(recipe)

    # Data
    train, dev, provenance = read_or_stream(recipe, read_dialogues)

    # Model: ours on BERT's weights, or any causal language model as it is
    tokenizer = choose_tokenizer(recipe, (turn for dialogue in train for turn in dialogue))
    model, tokenizer, rules = make_chat_model(recipe, tokenizer)
    tokenizer = finished_tokenizer(recipe, tokenizer, model)
    tokenizer = chat_tokenizer(tokenizer, rules)
    head = choose_head(recipe, model, rules.sep_id)
    check_belongs_together(recipe, model, tokenizer)
    if prompt_budget(model, recipe) <= rules.num_tokens([Turn(0, ())]):
        raise ValueError(f"--max-new-tokens {recipe.max_new_tokens} leaves no position of the model for a prompt")
    set_dropout(recipe, model)
    adapted = configure(recipe, model.base_model, tokenizer, model.get_output_embeddings())
    setattr(model, model.base_model_prefix, adapted)
    whole = unsharded_copy(accelerator, model)

    # Examples: the newest whole turns that fit, labels where the next token is to be learnt
    options: dict[str, Any] = {"max_tokens": recipe.max_length, "reverse": recipe.reverse}

    def encode(dialogues, first, learn=recipe.learn):
        return encode_dialogues(tokenizer, rules, dialogues, learn=learn, **options)

    def key(learn):
        return ["dialogues", rules.name, *rules.speaker_ids, options, learn, tokenizer_key(tokenizer)]

    def held_out_of(dialogues, learn=recipe.learn):
        examples = tokenize_rows(
            dialogues, partial(encode, learn=learn), key=key(learn), num_workers=recipe.num_workers
        )
        return dev_batches(recipe, examples, collate)

    def collate(examples):
        is_ours = isinstance(model, DialoGPTForCausalLM)
        batch = dialogue_batch(examples, pad_token_id=tokenizer.pad_token_id, token_types=is_ours)
        # padding stands behind what it could change: without a mask, attention is one causal kernel without a wait
        del batch["attention_mask"]
        return {**batch, "labels": next_token(batch["labels"])}

    batches = token_batches(recipe, run, train, encode, key(recipe.learn), collate)
    held_out = held_out_of(dev)
    module = LabelledLoss(model, choose_token_loss(recipe), recipe.chunk_size, head)
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
    histories = {"last turn": dev, "last turn, without history": [turns[-2:] for turns in dev]}
    if not recipe.reverse:  # what the history is worth
        for name, dialogues in histories.items():
            scores[name] = dev_loss(module, held_out_of(dialogues, learn="last"), accelerator.device)

    # Save, score, verify, push
    def score(whole):
        if recipe.max_scored and not recipe.reverse:
            for name, dialogues in histories.items():
                scores[name] |= reply_scores(whole, tokenizer, rules, dialogues[: recipe.max_scored], recipe)

    finish(recipe, accelerator, run, model, whole, tokenizer, scores, provenance, score)


if __name__ == "__main__":
    run_script(main)
