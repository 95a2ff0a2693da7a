"""What each kind of model is asked for its golden tensors, and how suzoo's own classes answer again.

A function `ask_…(model, tokenizer, folder)` returns the golden outputs and the promise; `tasks.py` says whose it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from suzoo.hub._golden_inputs import CHATS, PAIRS, PROMPTS, SOURCES_AND_TARGETS, TEXTS
from suzoo.hub.verify import TOLERANCE
from suzoo.hub.verify.encoders import by_prompts
from suzoo.hub.verify.language_models import answer_prompts, answer_sources, answer_texts, logits_at, prompt_inputs
from suzoo.models import CoSENTCrossEncoder, CoSENTModel, TTAForMaskedLM, UniLMForCausalLM
from suzoo.models._stock_encoder import num_positions

CLASSIFIER_DOORS = ["AutoModelForSequenceClassification", "text-classification pipeline"]
GENERATOR_DOORS = (
    *("AutoTokenizer", "AutoModelForCausalLM", "text-generation pipeline"),
    "saved by AutoModelForCausalLM",
)
MAX_NEW_TOKENS = 16

# ---- encoders


def _has_code(folder: Path) -> bool:
    return "auto_map" in json.loads((folder / "config.json").read_text(encoding="utf-8"))


def _code_door(folder: Path, auto_class: str) -> list[str]:
    """The door to the code in the folder, where there is some."""
    return [f"{auto_class}, trust_remote_code"] * _has_code(folder)


def ask_encoder(model: CoSENTModel, tokenizer, folder: Path) -> tuple[dict, dict]:
    texts = _texts(tokenizer)
    outputs = _by_prompts(model, lambda **prompt: model.encode(texts, tokenizer=tokenizer, **prompt))
    # sentence-transformers has no first-last-avg, and who reads transformers' files alone knows the pooling at most
    with_st = model.pooling != "first-last-avg"
    plain = not model.do_lower_case and model.include_prompt and model.projection is None
    if not (with_st or plain):
        raise ValueError("first-last-avg with lower case or without prompts in the pooling opens through no door")
    doors = _stock_doors("SentenceTransformer" if with_st else None, ["AutoModel"] if plain else [])
    if model.encoder_has_code:
        doors = [doors[0], *(f"{door}, trust_remote_code" for door in doors[1:])]
    else:
        doors += _code_door(folder, "AutoModel")
    return outputs, {
        "kind": "sentence-embedding",
        "doors": doors,
        "inputs": texts,
        "pooling": model.pooling,
        "normalize": model.normalize,
        "include_prompt": model.include_prompt,
        **_prompts(model),
        **_reading(tokenizer, model._max_length(tokenizer, None)),
    }


def ask_cross_encoder(model: CoSENTCrossEncoder, tokenizer, folder: Path) -> tuple[dict, dict]:
    return _by_prompts(model, lambda **prompt: model.predict(PAIRS, tokenizer=tokenizer, **prompt)), {
        "kind": "cross-encoder",
        "doors": _stock_doors("CrossEncoder", [] if model.do_lower_case else CLASSIFIER_DOORS)
        + _code_door(folder, "AutoModelForSequenceClassification"),
        "inputs": PAIRS,
        **_prompts(model),
        **_reading(tokenizer, model._max_length(tokenizer, None)),
    }


def _stock_doors(library_class: str | None, plain: list[str]) -> list[str]:
    """The doors of a folder that sentence-transformers opens by `library_class`, and transformers by `plain` ones."""
    library = [library_class] if library_class else []
    return ["files", "AutoTokenizer", *library, *plain, *(f"saved by {name}" for name in library + plain[:1])]


def _prompts(model: CoSENTModel | CoSENTCrossEncoder) -> dict[str, Any]:
    return {"prompts": model.prompts, "default_prompt": model.default_prompt_name}


def _by_prompts(model: CoSENTModel | CoSENTCrossEncoder, answer: Callable[..., Any]) -> dict[str, Any]:
    return by_prompts(_prompts(model), answer, knows_default=False)  # what the default gives is not in question here


def ask_classifier(model: PreTrainedModel, tokenizer, folder: Path) -> tuple[dict, dict]:
    """Logits of all classes, of texts cut where the stock pipeline cuts them."""
    texts, limit = _texts(tokenizer), _limit(model, tokenizer)
    batch = tokenizer(texts, padding=True, truncation=bool(limit), max_length=limit, return_tensors="pt")
    with torch.no_grad():
        output = model(**batch).logits.numpy()
    doors = _stock_doors(None, CLASSIFIER_DOORS)
    return {"output": output}, {"kind": "classifier", "doors": doors, "inputs": texts, **_reading(tokenizer, limit)}


# ---- texts, as the tokenizer reads them


def _texts(tokenizer) -> list[str]:
    """`TEXTS`, and one of the tokens that were added to the tokenizer."""
    added = [token.content for token in tokenizer.added_tokens_decoder.values() if not token.special]
    texts = [*TEXTS, f"好{' '.join(added[:5])}, ok {''.join(added[:5])}."] if added else TEXTS
    # some tokenizers give an empty text no token at all, and then no two libraries agree on its vector
    return [text for text in texts if tokenizer(text[:8])["input_ids"]]


def _reading(tokenizer, limit: int | None) -> dict[str, Any]:
    """What the tokenizer must do with texts: their ids, and how many tokens it leaves where it cuts."""
    cut = {"truncation": True, "max_length": limit} if limit else {}
    texts = _texts(tokenizer)
    ids = tokenizer(texts, verbose=False, **cut)["input_ids"]
    return {
        "padding_side": tokenizer.padding_side,
        "max_length": limit,
        "tokens": [list(pair) for pair in zip(texts, ids, strict=True)],
    }


def _limit(model: PreTrainedModel, tokenizer) -> int | None:
    """Tokens that the model takes, or None where nothing says how many."""
    known = [
        length for length in (num_positions(model.config), tokenizer.model_max_length) if length and 0 < length < 1e9
    ]
    return min(known, default=None)


# ---- language models


def _names(folder: Path, *names: str) -> list[str]:
    """Names of doors, with the flag that they need where the folder carries code."""
    flag = ", trust_remote_code" * _has_code(folder)
    return [name + flag for name in names]


def _short(model: PreTrainedModel, tokenizer) -> int:
    """Tokens of a question that is not too slow to be asked."""
    return min(_limit(model, tokenizer) or 512, 512)


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
    return 0 < prompt_inputs(tokenizer, prompt)["input_ids"].shape[1] <= _short(model, tokenizer) - MAX_NEW_TOKENS


def _generation_promise(model: PreTrainedModel, tokenizer, kind: str, prompts: list, folder: Path) -> dict:
    replies = [_settled_tokens(model, tokenizer, prompt) for prompt in prompts]
    if not any(replies):
        raise ValueError("the model does not prefer any token to all others; there is nothing worth saving")
    return {
        "kind": kind,
        "doors": ["files", *_names(folder, *GENERATOR_DOORS)],
        "inputs": prompts,
        **_reading(tokenizer, _limit(model, tokenizer)),
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
    promise["targets"] = [target for _, target in pairs]
    outputs = answer_sources(model, tokenizer, promise)
    if model.config.has_stock_layers:
        outputs["source_logits"] = answer_texts(model, tokenizer, promise)["logits"]
        promise["doors"].append("BertForMaskedLM")
    return outputs, promise


def ask_masked_lm(model: PreTrainedModel, tokenizer, folder: Path) -> tuple[dict, dict]:
    texts = _texts(tokenizer)
    promise = {
        "kind": "masked-lm",
        "doors": ["files", *_names(folder, "AutoTokenizer", "AutoModelForMaskedLM")],
        "inputs": texts,
        **_reading(tokenizer, _limit(model, tokenizer)),
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
    promise["doors"] += _names(folder, "saved by AutoModelForMaskedLM")
    return outputs, promise


# ---- suzoo's own doors


def open_encoder(folder: str, promise: dict) -> dict:
    model = CoSENTModel.from_pretrained(folder, dtype=torch.float32)
    return by_prompts(promise, lambda **prompt: model.encode(promise["inputs"], **prompt))


def open_cross_encoder(folder: str, promise: dict) -> dict:
    model = CoSENTCrossEncoder.from_pretrained(folder, dtype=torch.float32)
    return by_prompts(promise, lambda **prompt: model.predict(promise["inputs"], **prompt))
