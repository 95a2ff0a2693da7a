"""Distil a sentence encoder into a smaller one: `accelerate launch training/train_distill.py RECIPE [--flags]`.

Reads in the order it runs: recipe, data, teacher, student, step, loop, evaluation, save, verify, push.
"""

from __future__ import annotations

from recipes.command_line import parse
from recipes.distill import RECIPES
from recipes.frame import begin, finish, mixture_of, prepare, read_one, read_train, unsharded_copy
from recipes.losses import distillation_loss
from recipes.preflight import preflight
from recipes.step import sentence_backward
from recipes.students import load_teacher, make_student, teacher_vectors

import numpy as np
import torch

from suzoo.data import (
    WithLabels,
    check_labels,
    flat_batch,
    numbers,
    read_pairs,
    read_texts,
    to_device,
    token_ids,
    tokenize_rows,
    tokenizer_key,
)
from suzoo.distributed import together
from suzoo.engine import RandomBatches, fit, run_script
from suzoo.evaluation import pair_cosines, pair_metrics, spearman


def main() -> None:
    recipe = parse(RECIPES, __doc__)
    accelerator, run = begin(recipe)

    # Data
    train, trained = read_train(recipe, read_texts)
    source, split = recipe.dev_data
    dev, compared = read_one(recipe, read_pairs, source, split, recipe.max_dev_samples, columns=())
    check_labels(dev, recipe.dev or recipe.data_name)
    provenance = {"train": trained, "dev": compared}

    # Teacher: its vectors of the training texts, and how alike it finds the dev pairs
    teacher = together(lambda: load_teacher(recipe, accelerator))
    vectors = together(lambda: teacher_vectors(teacher, train, trained["sha256"], progress=not recipe.quiet))
    found_by_teacher = pair_cosines(teacher.encode, dev, share=True)
    teachers_own = spearman(found_by_teacher, numbers(dev, "label"))

    # Student
    model, tokenizer = together(lambda: make_student(recipe, teacher, train))
    prompt = model.prompt_text()  # none, but for a --model that has one
    whole = unsharded_copy(accelerator, model)
    loss = distillation_loss(recipe, model.embedding_size, teacher.embedding_size)
    teacher.cpu()

    # Examples: a text and the teacher's vector of it
    def encode(texts, first):
        return {"input_ids": token_ids(tokenizer, model.as_read(texts, prompt), recipe.max_length)}

    def collate(examples):
        batch = flat_batch([text["input_ids"] for text, _ in examples], device=accelerator.device)
        targets = torch.from_numpy(np.stack([vector for _, vector in examples]))
        return {**batch, **left_out}, to_device(targets, accelerator.device)

    left_out = {"prompt_length": model.prompt_tokens(tokenizer, prompt)}  # of the pooling
    key = ["texts", recipe.max_length, model.as_read(["Aa"], prompt), tokenizer_key(tokenizer)]
    examples = WithLabels(tokenize_rows(train, encode, key=key, num_workers=recipe.num_workers), vectors)
    batches = RandomBatches(examples, collate=collate, mixture=mixture_of(recipe, train), **recipe.batch_options)
    preflight(recipe, accelerator, run, tokenizer, model, batches, train, dev)
    module, optimizer, schedule, num_steps = prepare(recipe, accelerator, run, model, batches, provenance)

    # Step
    def step(micro_batches):
        return sentence_backward(recipe, accelerator, module, model, loss, micro_batches)

    # Loop
    def evaluate() -> dict[str, float]:
        cosines = pair_cosines(model.encode, dev, share=whole is model)
        found = pair_metrics(cosines, numbers(dev, "label"))
        return found | {"with_teacher": spearman(cosines, found_by_teacher), "teachers_own": teachers_own}

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
