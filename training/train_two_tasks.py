"""Train one encoder on two tasks: `accelerate launch training/train_two_tasks.py RECIPE [--flags]`.

--tasks says which: the similarity of pairs and the classes of texts, or, as SimBERT, writing a similar text and telling
the pairs of a batch apart. The data, the model and the two losses are in `recipes/tasks_classes.py` and
`recipes/tasks_simbert.py`; here is how the two become one step.
"""

from __future__ import annotations

from recipes.command_line import parse
from recipes.frame import begin, finish, prepare, unsharded_copy
from recipes.preflight import preflight
from recipes.tasks_classes import SimilarityAndClasses
from recipes.tasks_simbert import SimBERT
from recipes.two_tasks import RECIPES

from suzoo.engine import fit, run_script
from suzoo.multitask import inverse_gradient_norm, min_norm, multitask_backward, pcgrad, primary_auxiliary

TASKS = {"similarity_classes": SimilarityAndClasses, "simbert": SimBERT}
WEIGHTINGS = {
    "primary_auxiliary": primary_auxiliary,
    "min_norm": min_norm,
    "inverse_gradient_norm": inverse_gradient_norm,
    "pcgrad": pcgrad,
}


def main() -> None:
    recipe = parse(RECIPES, __doc__)
    accelerator, run = begin(recipe)
    recipe.check_regularizers(accelerator, coupled=True, flat=True)

    # Data, model, examples
    tasks = TASKS[recipe.tasks](recipe, accelerator)
    model, tokenizer, provenance = tasks.model, tasks.tokenizer, tasks.provenance
    whole = unsharded_copy(accelerator, model)
    preflight(recipe, accelerator, run, tokenizer, tasks.module, tasks.batches, tasks.train, tasks.dev_rows)
    module, optimizer, schedule, num_steps = prepare(recipe, accelerator, run, tasks.module, tasks.batches, provenance)

    # Step: the losses of the tasks that it has data of, by their sum or by weights of their gradients
    def step(micro_batches):
        if recipe.weighting == "sum":
            losses = tasks.backward(module, micro_batches)
            return {"loss": sum(losses.values()), **losses}
        losses = tasks.losses(module, micro_batches)
        weights = multitask_backward(list(losses.values()), model.parameters(), WEIGHTINGS[recipe.weighting])
        weighted = {name.replace("_loss", "_weight"): weight for name, weight in zip(losses, weights, strict=True)}
        found = {name: loss.detach() for name, loss in losses.items()}
        return {"loss": sum(found.values()), **found, **weighted}

    # Loop
    fit(
        step,
        accelerator=accelerator,
        model=module,
        optimizer=optimizer,
        schedule=schedule,
        batches=tasks.batches,
        num_steps=num_steps,
        run=run,
        evaluate=lambda: tasks.evaluate(module),
        **recipe.loop_options,
    )
    scores = tasks.score(module)

    # Save, verify, push
    def save_second(whole):
        tasks.save_second(run, whole, scores)

    finish(recipe, accelerator, run, model, whole, tokenizer, scores, provenance, save_second)
    if accelerator.is_main_process:
        tasks.publish_second(run)


if __name__ == "__main__":
    run_script(main)
