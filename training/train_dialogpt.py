"""Train a dialogue language model: `accelerate launch training/train_dialogpt.py RECIPE [--flags]`.

Reads in the order it runs: recipe, data, model, step, loop, evaluation, save, verify, push.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from accelerate.utils import DistributedType
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from recipes._base import parse
from recipes._language_model import (
    LabelledLoss,
    dev_loss,
    finished_tokenizer,
    next_token,
    num_labels,
    smoothed,
)
from recipes.dialogpt import RECIPES
from suzoo.data import add_tokens, describe, dialogue_batch, encode_dialogue, num_ids, read_dialogues
from suzoo.distributed import rank
from suzoo.engine import end_training, fit, full_state_dict, run_script, token_mean_backward
from suzoo.evaluation import distinct_n_corpus
from suzoo.hub.publish import publish
from suzoo.models import DialoGPTConfig, DialoGPTForCausalLM
from suzoo.models._configuration import READABLE_MODEL_TYPES
from suzoo.models._dialogue import SPEAKER_TOKENS, DialogueLayout, Turn, chat_template


def main() -> None:
    recipe = parse(RECIPES, __doc__)
    accelerator, run = recipe.start()

    # Data
    split = recipe.split or "train"
    dev_source, dev_split = recipe.dev_data
    reading: dict[str, Any] = {"columns": recipe.columns, "skip_bad_rows": recipe.skip_bad_rows}
    train = read_dialogues(recipe.data, split=split, max_rows=recipe.max_train_samples, **reading)
    dev = read_dialogues(dev_source, split=dev_split, max_rows=recipe.max_dev_samples, **reading)
    data = {"train": describe(recipe.data, split, train), "dev": describe(dev_source, dev_split, dev)}

    # Model: ours on BERT's weights, or any causal language model as it is
    tokenizer = recipe.load_tokenizer(turn for dialogue in train for turn in dialogue)
    trust = {"trust_remote_code": recipe.trust_remote_code}
    config = AutoConfig.from_pretrained(recipe.model, **trust) if recipe.model else None
    is_ours = config is None or config.model_type in READABLE_MODEL_TYPES
    layout = recipe.layout or getattr(config, "layout", None) or ("cdial" if tokenizer.cls_token else "dialogpt")
    if layout == "blog" and not is_ours:
        raise ValueError(f"--layout blog keeps speakers in token types, which {recipe.model} does not read: use cdial")
    if layout == "cdial" and not set(SPEAKER_TOKENS) <= tokenizer.get_vocab().keys():
        tokenizer = add_tokens(tokenizer, SPEAKER_TOKENS, special=True)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.sep_token
    rules = DialogueLayout.of_tokenizer(layout, tokenizer)
    model: Any
    if config is None:
        ids = {"bos_token_id": tokenizer.cls_token_id, "eos_token_id": tokenizer.sep_token_id}
        fields: dict[str, Any] = {
            **recipe.sizes(tokenizer),
            **ids,
            "position_embedding_type": recipe.positions,
            "layout": layout,
        }
        model = DialoGPTForCausalLM(DialoGPTConfig(**fields))
    elif is_ours:
        model = DialoGPTForCausalLM.from_pretrained(recipe.model, layout=layout)
    else:
        model = AutoModelForCausalLM.from_pretrained(str(recipe.model), **trust)
        model.config.layout = layout
    if num_ids(tokenizer) > model.config.vocab_size:
        model.resize_token_embeddings(num_ids(tokenizer))
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=rules.sep_id,
        pad_token_id=tokenizer.pad_token_id,
        max_new_tokens=recipe.max_new_tokens,
        do_sample=True,
        top_k=5,  # the article's
        suppress_tokens=sorted({*tokenizer.all_special_ids, *rules.speaker_ids} - {rules.sep_id}),
    )
    tokenizer = finished_tokenizer(tokenizer, model)
    tokenizer.chat_template = chat_template(layout, "eos_token" if tokenizer.sep_token is None else "sep_token")
    head = recipe.choose_head(model, rules.sep_id)
    recipe.check_fit(model, tokenizer)
    if prompt_budget(model, recipe) <= rules.num_tokens([Turn(0, ())]):
        raise ValueError(f"--max-new-tokens {recipe.max_new_tokens} leaves no position of the model for a prompt")
    recipe.set_dropout(model)
    adapted = recipe.adapt(model.base_model, tokenizer, model.get_output_embeddings())
    setattr(model, model.base_model_prefix, adapted)
    sharded = accelerator.distributed_type == DistributedType.FSDP
    whole = copy.deepcopy(model).eval() if sharded else model  # no process can save or run its shards alone
    module = LabelledLoss(model, smoothed(recipe.label_smoothing), recipe.chunk_size, head)

    # Examples: the newest whole turns that fit, labels where the next token is to be learnt
    def encode(turns, learn=recipe.learn):
        return encode_dialogue(
            tokenizer, rules, turns, max_tokens=recipe.max_length, learn=learn, reverse=recipe.reverse
        )

    def collate(examples):
        batch = dialogue_batch(examples, pad_token_id=tokenizer.pad_token_id, token_types=is_ours)
        return {**batch, "labels": next_token(batch["labels"])}

    batches = recipe.batches([encode(turns) for turns in train], collate)
    dev_batches = recipe.dev_batches([encode(turns) for turns in dev], collate)
    num_steps = max(1, round(recipe.epochs * batches.steps_per_epoch))
    optimizer = recipe.choose_optimizer(module)
    schedule = recipe.choose_schedule(optimizer, num_steps)
    module, optimizer = accelerator.prepare(module, optimizer)
    run.start(accelerator, recipe, data)
    torch.manual_seed(recipe.seed + rank())  # from here on every rank draws its own dropout

    # Step
    def batch_loss(batch, num_tokens):
        return module(**{name: tensor.to(accelerator.device) for name, tensor in batch.items()}) / num_tokens

    def step(micro_batches):
        return {"loss": token_mean_backward(accelerator, module, micro_batches, num_labels, batch_loss)}

    # Loop
    def evaluate() -> dict[str, float]:
        return dev_loss(module, dev_batches, accelerator.device)

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
        **recipe.loss_options,
    )
    scores = {"dev": evaluate()}
    histories = {"last turn": dev, "last turn, without history": [turns[-2:] for turns in dev]}
    if not recipe.reverse:  # what the history is worth
        for name, dialogues in histories.items():
            last_turns = recipe.dev_batches([encode(turns, learn="last") for turns in dialogues], collate)
            scores[name] = dev_loss(module, last_turns, accelerator.device)

    # Save, score, verify, push
    if sharded:
        whole.load_state_dict(full_state_dict(model))  # every process takes part
    end_training(accelerator)
    if recipe.lora_r:
        setattr(whole, whole.base_model_prefix, whole.base_model.merge_and_unload())  # ty: ignore[not-callable]
    if accelerator.is_main_process:
        whole.save_pretrained(run.path)
        tokenizer.save_pretrained(run.path)
        if recipe.max_scored and not recipe.reverse:
            for name, dialogues in histories.items():
                dialogues = dialogues[: recipe.max_scored]
                greedy = replies(whole, tokenizer, rules, dialogues, recipe, do_sample=False)
                sampled = replies(whole, tokenizer, rules, dialogues, recipe)
                matches = [reply == turns[-1] for reply, turns in zip(greedy, dialogues, strict=True)]
                scores[name]["exact_match"] = sum(matches) / len(matches)
                scores[name] |= {f"distinct_{n}": distinct_n_corpus(sampled, n) for n in (1, 2)}
        run.finish(recipe, scores, script="training/train_dialogpt.py", data=data)
        publish(whole, tokenizer, run.path, recipe.push_to)


def prompt_budget(model, recipe) -> int:
    """Tokens of a dialogue that leave room for a reply."""
    positions = getattr(model.config, "max_position_embeddings", None) or recipe.max_length + recipe.max_new_tokens
    return min(recipe.max_length, positions - recipe.max_new_tokens)


def replies(model, tokenizer, rules: DialogueLayout, dialogues, recipe, **generation: Any) -> list[str]:
    """What the model says in place of each dialogue's last turn."""
    found, budget = [], prompt_budget(model, recipe)
    for turns in dialogues:
        heard = [Turn.of_text(tokenizer, text, place % 2) for place, text in enumerate(turns[:-1])]
        prompt = rules.render_prompt(rules.newest(heard, budget), (len(turns) - 1) % 2)
        inputs = {"input_ids": torch.tensor([prompt.input_ids], device=model.device)}
        if rules.name == "blog":
            inputs["token_type_ids"] = torch.tensor([prompt.token_type_ids], device=model.device)
        output = model.generate(**inputs, attention_mask=torch.ones_like(inputs["input_ids"]), **generation)
        found.append(tokenizer.decode(output[0, len(prompt.input_ids) :], skip_special_tokens=True))
    return found


if __name__ == "__main__":
    run_script(main)
