"""Train a T-TA, or a plain masked language model beside it: `accelerate launch training/train_tta.py RECIPE [--flags]`.

Reads in the order it runs: recipe, data, model, step, loop, evaluation, save, verify, push.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from accelerate.utils import DistributedType
from transformers import BertConfig, BertForMaskedLM

from recipes._base import parse
from recipes._language_model import LabelledLoss, dev_loss, finished_tokenizer, num_labels, smoothed
from recipes.tta import RECIPES
from suzoo.data import (
    describe,
    embedded,
    encode_sentence,
    encode_words,
    masked_batch,
    read_confusions,
    read_seq2seq,
    read_texts,
    segment_chinese,
    tta_batch,
)
from suzoo.distributed import rank
from suzoo.engine import end_training, fit, full_state_dict, run_script, token_mean_backward
from suzoo.evaluation import masked_log_likelihoods, perplexity, spelling_scores
from suzoo.hub.publish import publish
from suzoo.models import TTAConfig, TTAForMaskedLM

WORDS = {"single": lambda text: [text], "blanks": str.split, "jieba": segment_chinese}


def main() -> None:
    recipe = parse(RECIPES, __doc__)
    is_tta = recipe.objective == "tta"
    if recipe.typos and not is_tta:
        raise ValueError("--typos are corrected by T-TA; a masked language model has no one-pass suggestions")
    if not is_tta and recipe.positions != "absolute":
        raise ValueError("--objective mlm is a stock BERT, which has --positions absolute only")
    accelerator, run = recipe.start()

    # Data
    split = recipe.split or "train"
    dev_source, dev_split = recipe.dev_data
    options: dict[str, Any] = {"skip_bad_rows": recipe.skip_bad_rows}
    train = read_texts(recipe.data, split=split, max_rows=recipe.max_train_samples, columns=recipe.columns, **options)
    dev = read_texts(dev_source, split=dev_split, max_rows=recipe.max_dev_samples, columns=recipe.columns, **options)
    data = {"train": describe(recipe.data, split, train), "dev": describe(dev_source, dev_split, dev)}
    if recipe.typos:
        typos = read_seq2seq(recipe.typos, split="dev" if recipe.typos.startswith("embedded:") else None, **options)
        data["typos"] = describe(recipe.typos, None, typos)
        files = [path for path in recipe.confusion if path != "embedded"]
        confusion = read_confusions(*files) if files else {}
        if "embedded" in recipe.confusion:
            confusion |= embedded.confusions()

    # Model
    tokenizer = recipe.load_tokenizer(train, needs=("cls", "sep", "mask", "pad"))
    ids = {"bos_token_id": tokenizer.cls_token_id, "eos_token_id": tokenizer.sep_token_id}
    if recipe.model and is_tta:  # a BERT does not say where its [MASK] is
        model = TTAForMaskedLM.from_pretrained(recipe.model, mask_token_id=tokenizer.mask_token_id)
    elif recipe.model:
        model = BertForMaskedLM.from_pretrained(recipe.model)
    elif is_tta:
        model = TTAForMaskedLM(
            TTAConfig(
                **recipe.sizes(tokenizer),
                **ids,
                mask_token_id=tokenizer.mask_token_id,
                position_embedding_type=recipe.positions,
                query_init=recipe.query_init,
            )
        )
    else:
        model = BertForMaskedLM(BertConfig(**recipe.sizes(tokenizer)))
    tokenizer = finished_tokenizer(tokenizer, model)
    recipe.check_fit(model, tokenizer)
    recipe.set_dropout(model)
    model.bert = recipe.adapt(model.bert, tokenizer, model.get_output_embeddings())  # ty: ignore[invalid-assignment]
    sharded = accelerator.distributed_type == DistributedType.FSDP
    whole = copy.deepcopy(model).eval() if sharded else model  # no process can save or run its shards alone
    module = LabelledLoss(model, smoothed(recipe.label_smoothing), recipe.chunk_size)

    # Examples: a sentence and, for masking, the words its tokens belong to
    cut_side = torch.Generator().manual_seed(recipe.seed)  # of texts that are too long

    def encode(text):
        if is_tta:
            return encode_sentence(tokenizer, text, max_tokens=recipe.max_length, generator=cut_side)
        return encode_words(tokenizer, WORDS[recipe.words](text), max_tokens=recipe.max_length)

    def collate(examples, generator=torch.default_generator):
        if is_tta:
            return tta_batch(examples, pad_token_id=tokenizer.pad_token_id)
        return masked_batch(
            examples,
            tokenizer=tokenizer,
            generator=generator,
            probability=recipe.mask_probability,
            whole_words=recipe.words != "single",
        )

    batches = recipe.batches([encode(text) for text in train], collate)
    # the dev loss of a masked model hides the same tokens every time
    hidden_in_dev = torch.Generator().manual_seed(0)
    dev_batches = recipe.dev_batches([encode(text) for text in dev], lambda rows: collate(rows, hidden_in_dev))
    num_steps = max(1, round(recipe.epochs * batches.steps_per_epoch))
    optimizer = recipe.choose_optimizer(module)
    schedule = recipe.choose_schedule(optimizer, num_steps)
    module, optimizer = accelerator.prepare(module, optimizer)
    run.start(accelerator, recipe, data)
    torch.manual_seed(recipe.seed + rank())  # from here on every rank draws its own dropout and masks

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

    # Save, score, verify, push
    if sharded:
        whole.load_state_dict(full_state_dict(model))  # every process takes part
    end_training(accelerator)
    if recipe.lora_r:
        whole.bert = whole.bert.merge_and_unload()  # ty: ignore[not-callable]
    if accelerator.is_main_process:
        whole.save_pretrained(run.path)
        tokenizer.save_pretrained(run.path)
        if recipe.max_scored:
            scored = dev[: recipe.max_scored]
            scores["dev"]["pseudo_perplexity"] = pseudo_perplexity(whole, tokenizer, scored, recipe.max_length)
        if recipe.typos:
            sources, targets = zip(*((row.source, row.target) for row in typos), strict=True)
            corrected = [correct(whole, tokenizer, source, confusion) for source in sources]
            scores["typos"] = spelling_scores(sources, corrected, targets)
        run.finish(recipe, scores, script="training/train_tta.py", data=data)
        publish(whole, tokenizer, run.path, recipe.push_to)


@torch.no_grad()
def pseudo_perplexity(model, tokenizer, texts: list[str], max_length: int) -> float:
    """exp of the mean of -log p(token | all other tokens): one pass of T-TA, one pass per token of a masked model."""
    nlls, counts = [], []
    for text in texts:
        inputs = tokenizer(
            text, truncation=True, max_length=max_length, return_special_tokens_mask=True, return_tensors="pt"
        ).to(model.device)
        scored = inputs.pop("special_tokens_mask") == 0
        if isinstance(model, TTAForMaskedLM):
            log_probs = (
                model(**inputs).logits.float().log_softmax(-1).gather(-1, inputs["input_ids"][..., None])[..., 0]
            )
        else:
            log_probs = masked_log_likelihoods(model, inputs, scored, mask_token_id=tokenizer.mask_token_id)
        nlls.append(-float((log_probs * scored).sum()))
        counts.append(int(scored.sum()))
    return perplexity(nlls, counts)


def correct(model, tokenizer, text: str, confusion) -> str:
    """The text with all suggestions taken."""
    for suggestion in reversed(model.suggest(text, confusion=confusion or None, tokenizer=tokenizer)):
        text = text[: suggestion.start] + suggestion.replacement + text[suggestion.end :]
    return text


if __name__ == "__main__":
    run_script(main)
