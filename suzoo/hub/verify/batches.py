"""A language model is asked for the golden answers in the other ways that programs have. These are one batch padded on
either side, with and without a cache and, where suzoo's code promises it, rows packed into one.

Shapes: N inputs of at most L tokens, V tokens in the vocabulary.
"""

from __future__ import annotations

from .comparison import expect_equal

# where the golden logits of each kind stand, from the first of n tokens on
PLACES = {"causal-lm": lambda n: n - 1, "seq2seq-lm": lambda n: n - 2, "masked-lm": lambda n: n // 2}


def ask_in_batches(model, tokenizer, promise: dict, outputs: dict, *, own_code: bool) -> None:
    """Ask once more for `outputs`, the answers to each input alone.

    Args:
        own_code: the model is suzoo's, which counts positions from the mask and knows packed rows. Stock models
            count in `generate` alone.

    Raises:
        ValueError: another answer.
    """
    place, expected = PLACES[promise["kind"]], {"logits": outputs["logits"]}
    for side in ("right", "left") if own_code else ("right",):
        batch = _batch(tokenizer, promise, side, with_targets=True)
        found = _padded_logits(model, batch, place)
        expect_equal(f"a batch padded on the {side}", {"logits": found}, expected)
    if own_code and getattr(model.config, "attention_type", "softmax") == "softmax":  # others refuse packed rows
        found = _packed_logits(model, batch, place)
        expect_equal("one row of packed inputs with position_ids that restart", {"logits": found}, expected)
    if "generated" in outputs:
        batch = _batch(tokenizer, promise, tokenizer.padding_side)
        for how, use_cache in (("in a batch", True), ("in a batch without a cache", False)):
            found = _generated(model, batch, promise["new_tokens"], use_cache)
            expect_equal(f"generate() {how}", {"generated": found}, {"generated": outputs["generated"]})


def _batch(tokenizer, promise: dict, side: str, with_targets: bool = False) -> dict:
    """All inputs, padded on a side: as prompts, or with their targets."""
    options = {"padding": True, "padding_side": side, "return_tensors": "pt"}
    inputs = promise["inputs"]
    if not isinstance(inputs[0], str):
        template = {"add_generation_prompt": True, "return_dict": True}
        if side != tokenizer.padding_side:  # a template does not take a side
            texts = tokenizer.apply_chat_template(inputs, add_generation_prompt=True, tokenize=False)
            return dict(tokenizer(texts, **options))
        return dict(tokenizer.apply_chat_template(inputs, **template, padding=True, return_tensors="pt"))
    if with_targets and "targets" in promise:
        return dict(tokenizer(inputs, text_pair=promise["targets"], **options))
    return dict(tokenizer(inputs, **options, truncation=True))


def _padded_logits(model, batch: dict, place):
    """(N, V) logits of a padded batch at `place(number of tokens)` of each row."""
    import torch

    mask_NL = batch["attention_mask"]
    first_N, num_tokens_N = mask_NL.long().argmax(1), mask_NL.sum(1)
    with torch.no_grad():
        logits_NLV = model(**batch).logits
    return logits_NLV[torch.arange(len(mask_NL)), first_N + place(num_tokens_N)].numpy()


def _packed_logits(model, batch: dict, place):
    """(N, V) the same, with all rows one behind the other and no mask."""
    import torch

    mask_NL = batch.pop("attention_mask").bool()
    num_tokens_N = mask_NL.sum(1)
    row = {name: values_NL[mask_NL][None] for name, values_NL in batch.items()}
    row["position_ids"] = torch.cat([torch.arange(n) for n in num_tokens_N.tolist()])[None]
    with torch.no_grad():
        logits_TV = model(**row).logits[0]
    return logits_TV[num_tokens_N.cumsum(0) - num_tokens_N + place(num_tokens_N)].numpy()


def _generated(model, batch: dict, new_tokens: list[int], use_cache: bool):
    """(N, T) how each prompt goes on, for as many tokens as promised; -1 behind them."""
    import numpy as np

    options = {"max_new_tokens": max(new_tokens), "do_sample": False, "num_beams": 1, "use_cache": use_cache}
    ids_NT = model.generate(**batch, **options)[:, batch["input_ids"].shape[1] :].numpy()
    rows_NT = np.full((len(ids_NT), max(new_tokens)), -1)
    for row, (ids, promised) in enumerate(zip(ids_NT, new_tokens, strict=True)):
        rows_NT[row, :promised] = ids[:promised]
    return rows_NT
