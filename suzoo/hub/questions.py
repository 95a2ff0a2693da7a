"""What each kind of model is asked for its golden tensors, and how suzoo's own classes answer again.

A function `ask_…(model, tokenizer, folder)` returns the golden outputs and the promise; `tasks.py` says whose it is.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from suzoo.hub._golden_inputs import CHATS, PAIRS, PROMPTS, SOURCES_AND_TARGETS, TEXTS
from suzoo.hub.verify import TOLERANCE
from suzoo.hub.verify.language_models import answer_prompts, answer_sources, answer_texts, logits_at, prompt_inputs
from suzoo.models import CoSENTCrossEncoder, CoSENTModel, TTAForMaskedLM, UniLMForCausalLM

ENCODER_DOORS = ["SentenceTransformer", "AutoModel"]
CROSS_ENCODER_DOORS = ["CrossEncoder", "AutoModelForSequenceClassification", "text-classification pipeline"]
CLASSIFIER_DOORS = ["AutoModelForSequenceClassification", "text-classification pipeline"]
MAX_NEW_TOKENS = 16

# ---- encoders


def _code_door(folder: Path, auto_class: str) -> list[str]:
    """The door to the code in the folder, where there is some."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return [f"{auto_class}, trust_remote_code"] if "auto_map" in config else []


def ask_encoder(model: CoSENTModel, tokenizer, folder: Path) -> tuple[dict, dict]:
    # some tokenizers give an empty text no token at all, and then no two libraries agree on its vector
    texts = [text for text in TEXTS if tokenizer(text[:8])["input_ids"]]
    outputs = {"output": model.encode(texts, tokenizer=tokenizer, prompt="")}
    for name in model.prompts:
        outputs[f"output.{name}"] = model.encode(texts, tokenizer=tokenizer, prompt_name=name)
    doors = list(ENCODER_DOORS)
    if model.pooling == "first-last-avg":  # sentence-transformers has no such pooling
        doors.remove("SentenceTransformer")
    if model.do_lower_case or not model.include_prompt:  # nobody knows it who reads transformers' files alone
        doors.remove("AutoModel")
    if not doors:
        raise ValueError("first-last-avg with lower case or without prompts in the pooling opens through no door")
    if model.encoder_has_code:
        doors = [f"{door}, trust_remote_code" for door in doors]
    else:
        doors += _code_door(folder, "AutoModel")
    return outputs, {
        "kind": "sentence-embedding",
        "doors": doors,
        "inputs": texts,
        "pooling": model.pooling,
        "normalize": model.normalize,
        "max_length": model._max_length(tokenizer, None),
        "prompts": model.prompts,
    }


def ask_cross_encoder(model: CoSENTCrossEncoder, tokenizer, folder: Path) -> tuple[dict, dict]:
    outputs = {"output": model.predict([(a, b) for a, b in PAIRS], tokenizer=tokenizer, prompt="")}
    return outputs, {
        "kind": "cross-encoder",
        "doors": (CROSS_ENCODER_DOORS[:1] if model.do_lower_case else CROSS_ENCODER_DOORS)
        + _code_door(folder, "AutoModelForSequenceClassification"),
        "inputs": PAIRS,
        "max_length": model._max_length(tokenizer, None),
    }


def ask_classifier(model: PreTrainedModel, tokenizer, folder: Path) -> tuple[dict, dict]:
    """Logits of all classes, of texts cut where the stock pipeline cuts them."""
    texts = [text for text in TEXTS if tokenizer(text[:8])["input_ids"]]
    promise = {
        "kind": "classifier",
        "doors": CLASSIFIER_DOORS,
        "inputs": texts,
        "max_length": _positions(model, tokenizer),
    }
    batch = tokenizer(texts, padding=True, truncation=True, max_length=promise["max_length"], return_tensors="pt")
    with torch.no_grad():
        return {"output": model(**batch).logits.numpy()}, promise


# ---- language models


def _names(folder: Path, *names: str) -> list[str]:
    """Names of doors, with the flag that they need where the folder carries code."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return [f"{name}, trust_remote_code" if "auto_map" in config else name for name in names]


def _positions(model: PreTrainedModel, tokenizer) -> int:
    """Tokens that certainly fit."""
    return min(tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", 512), 512)


def _settled_tokens(model: Any, tokenizer, prompt) -> list[int]:
    """The greedy continuation, up to the first token that another rounding of the logits might exchange."""
    inputs = prompt_inputs(tokenizer, prompt)
    output = model.generate(
        **inputs,
        max_new_tokens=MAX_NEW_TOKENS,
        do_sample=False,
        num_beams=1,
        output_scores=True,
        return_dict_in_generate=True,
    )
    reply = output.sequences[0, inputs["input_ids"].shape[1] :].tolist()
    for place, scores_1V in enumerate(output.scores):
        (best, second), largest = scores_1V[0].topk(2).values, scores_1V[scores_1V.isfinite()].abs().max()
        if not best - second > 10 * TOLERANCE * max(1.0, float(largest)):
            return reply[:place]
    return reply


def _fits(model: PreTrainedModel, tokenizer, prompt) -> bool:
    return 0 < prompt_inputs(tokenizer, prompt)["input_ids"].shape[1] <= _positions(model, tokenizer) - MAX_NEW_TOKENS


def _generation_promise(model: PreTrainedModel, tokenizer, kind: str, prompts: list, folder: Path) -> dict:
    replies = [_settled_tokens(model, tokenizer, prompt) for prompt in prompts]
    if not any(replies):
        raise ValueError("the model does not prefer any token to all others; there is nothing worth saving")
    return {
        "kind": kind,
        "doors": _names(folder, "AutoModelForCausalLM", "text-generation pipeline"),
        "inputs": prompts,
        "new_tokens": [len(reply) for reply in replies],
        "texts": [tokenizer.decode(reply, skip_special_tokens=True) for reply in replies],
    }


def ask_causal_lm(model: PreTrainedModel, tokenizer, folder: Path) -> tuple[dict, dict]:
    roles = ["user", "assistant"]
    chats = [[{"role": roles[i % 2], "content": text} for i, text in enumerate(turns)] for turns in CHATS]
    prompts = [p for p in (chats if tokenizer.chat_template else PROMPTS) if _fits(model, tokenizer, p)]
    promise = _generation_promise(model, tokenizer, "causal-lm", prompts, folder)
    return answer_prompts(model, tokenizer, promise), promise


def ask_seq2seq(model: UniLMForCausalLM, tokenizer, folder: Path) -> tuple[dict, dict]:
    pairs = [pair for pair in SOURCES_AND_TARGETS if _fits(model, tokenizer, pair[0])]
    promise = _generation_promise(model, tokenizer, "seq2seq-lm", [source for source, _ in pairs], folder)
    promise |= {"targets": [target for _, target in pairs], "max_length": _positions(model, tokenizer)}
    outputs = answer_sources(model, tokenizer, promise)
    if model.config.has_stock_layers:
        outputs["source_logits"] = answer_texts(model, tokenizer, promise)["logits"]
        promise["doors"].append("BertForMaskedLM")
    return outputs, promise


def ask_masked_lm(model: PreTrainedModel, tokenizer, folder: Path) -> tuple[dict, dict]:
    texts = [text for text in TEXTS if tokenizer(text[:8])["input_ids"]]
    promise = {
        "kind": "masked-lm",
        "doors": _names(folder, "AutoModelForMaskedLM"),
        "inputs": texts,
        "max_length": _positions(model, tokenizer),
        "scores": isinstance(model, TTAForMaskedLM),
    }
    outputs = answer_texts(model, tokenizer, promise)
    if tokenizer.mask_token is not None:
        mask = tokenizer.mask_token
        masked = [f"今天天{mask}真好，我们去公园散步吧。", f"A man is playing a {mask} on the stage.", mask]
        batches = [dict(tokenizer(text, return_tensors="pt")) for text in masked]
        logits_MV = logits_at(model, batches, lambda ids: ids.index(tokenizer.mask_token_id))
        outputs["fill_mask"] = torch.tensor(logits_MV).softmax(-1).topk(5).values.numpy()
        promise["masked"] = masked
        promise["doors"] += _names(folder, "fill-mask pipeline")
    return outputs, promise


# ---- suzoo's own doors


def open_encoder(folder: str, promise: dict) -> dict:
    model = CoSENTModel.from_pretrained(folder, dtype=torch.float32)
    outputs = {"output": model.encode(promise["inputs"], prompt="")}
    return outputs | {
        f"output.{name}": model.encode(promise["inputs"], prompt_name=name) for name in promise["prompts"]
    }


def open_cross_encoder(folder: str, promise: dict) -> dict:
    model = CoSENTCrossEncoder.from_pretrained(folder, dtype=torch.float32)
    return {"output": model.predict([tuple(pair) for pair in promise["inputs"]], prompt="")}
