"""Golden tensors: fixed inputs and what the trained model answers to them, kept beside the weights.

`golden.safetensors` holds the answers and, in its metadata under "golden", a JSON object: `kind`, `doors` (the ways of
opening the folder that are promised, names as in `suzoo.hub.verify.DOORS`), `inputs`, and the settings a reader without
suzoo needs. The tensors of each kind, N inputs, V tokens in the vocabulary:

    sentence-embedding   output, and output.<name> for every prompt
    cross-encoder        output
    causal-lm            logits (N, V) behind each prompt; generated (N, T) token ids, -1 behind the end
    seq2seq-lm           the same, logits where the target's end is predicted; source_logits as of a BertForMaskedLM
    masked-lm            logits (N, V) in the middle of each text; fill_mask (M, 5) probabilities; score (N,) of T-TA

A new kind of model adds its inputs and doors here and its ways of opening to `verify/`.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import extract_model_from_parallel
from safetensors.numpy import save_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from suzoo.hub._golden_inputs import CHATS, PAIRS, PROMPTS, SOURCES_AND_TARGETS, TEXTS
from suzoo.hub.verify import (
    DOORS,
    GOLDEN_FILE,
    TOLERANCE,
    Door,
    Way,
    check_door,
    read_promise,
)
from suzoo.hub.verify.language_models import answer_prompts, answer_sources, answer_texts, logits_at, prompt_inputs
from suzoo.models import CoSENTCrossEncoder, CoSENTModel, TTAForMaskedLM, UniLMForCausalLM

ENCODER_DOORS = ["SentenceTransformer", "AutoModel"]
CROSS_ENCODER_DOORS = ["CrossEncoder", "AutoModelForSequenceClassification", "text-classification pipeline"]
CLASSIFIER_DOORS = ["AutoModelForSequenceClassification", "text-classification pipeline"]
MAX_NEW_TOKENS = 16


def save_golden(folder: str | Path, outputs: dict[str, np.ndarray], promise: dict) -> Path:
    """Write `golden.safetensors`: tensors `outputs` (float32, token ids int64), and `promise` as JSON."""
    path = Path(folder) / GOLDEN_FILE
    outputs = {
        name: np.ascontiguousarray(array, np.int64 if np.issubdtype(array.dtype, np.integer) else np.float32)
        for name, array in outputs.items()
    }
    bad = [name for name, array in outputs.items() if not np.isfinite(array).all()]
    if bad:
        raise ValueError(f"the model answers NaN or infinity ({', '.join(bad)}); there is nothing worth saving")
    save_file(outputs, str(path), metadata={"golden": json.dumps(promise, ensure_ascii=False)})
    return path


def write_golden(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: str | Path) -> Path:
    """Write the golden tensors of a trained model into the folder it was saved to.

    The outputs come from the model in memory, so a folder that was saved wrongly does not verify. They are computed by
    a float32 copy on the CPU: weights of lower precision are exact in it, and every door can repeat it.

    Args:
        model: the trained model; neither its mode, device nor dtype is changed. One of suzoo's, or a stock
            `...ForSequenceClassification`, `...ForMaskedLM` or causal language model.
        tokenizer: the one that was saved to `folder`. Its chat template, where it has one, makes the prompts chats.
        folder: where `model.save_pretrained` wrote.

    Raises:
        ValueError: another kind of model, or a model that answers NaN.
    """
    answer = _kind_of(model)
    # without Accelerate's autocast around `forward`
    reference = extract_model_from_parallel(copy.deepcopy(model), keep_fp32_wrapper=False).float().cpu().eval()
    outputs, promise = answer(reference, tokenizer, Path(folder))
    return save_golden(folder, outputs, promise)


def _kind_of(model: PreTrainedModel) -> Callable[[Any, PreTrainedTokenizerBase, Path], tuple[dict, dict]]:
    """The function that asks this kind of model; it returns the golden outputs and the promise."""
    if isinstance(model, CoSENTModel):
        return _ask_encoder
    if isinstance(model, CoSENTCrossEncoder):
        return _ask_cross_encoder
    if isinstance(model, PreTrainedModel) and type(model).__name__.endswith("ForSequenceClassification"):
        return _ask_classifier
    if isinstance(model, UniLMForCausalLM):
        return _ask_seq2seq
    if isinstance(model, PreTrainedModel) and type(model).__name__.endswith("ForMaskedLM"):
        return _ask_masked_lm
    if isinstance(model, PreTrainedModel) and model.can_generate() and not model.config.is_encoder_decoder:
        return _ask_causal_lm
    raise ValueError(f"no golden tensors are defined for {type(model).__name__}")


# ---- encoders


def _code_door(folder: Path, auto_class: str) -> list[str]:
    """The door to the code in the folder, where there is some."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return [f"{auto_class}, trust_remote_code"] if "auto_map" in config else []


def _ask_encoder(model: CoSENTModel, tokenizer, folder: Path) -> tuple[dict, dict]:
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


def _ask_cross_encoder(model: CoSENTCrossEncoder, tokenizer, folder: Path) -> tuple[dict, dict]:
    outputs = {"output": model.predict([(a, b) for a, b in PAIRS], tokenizer=tokenizer, prompt="")}
    return outputs, {
        "kind": "cross-encoder",
        "doors": (CROSS_ENCODER_DOORS[:1] if model.do_lower_case else CROSS_ENCODER_DOORS)
        + _code_door(folder, "AutoModelForSequenceClassification"),
        "inputs": PAIRS,
        "max_length": model._max_length(tokenizer, None),
    }


def _ask_classifier(model: PreTrainedModel, tokenizer, folder: Path) -> tuple[dict, dict]:
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


def _ask_causal_lm(model: PreTrainedModel, tokenizer, folder: Path) -> tuple[dict, dict]:
    roles = ["user", "assistant"]
    chats = [[{"role": roles[i % 2], "content": text} for i, text in enumerate(turns)] for turns in CHATS]
    prompts = [p for p in (chats if tokenizer.chat_template else PROMPTS) if _fits(model, tokenizer, p)]
    promise = _generation_promise(model, tokenizer, "causal-lm", prompts, folder)
    return answer_prompts(model, tokenizer, promise), promise


def _ask_seq2seq(model: UniLMForCausalLM, tokenizer, folder: Path) -> tuple[dict, dict]:
    pairs = [pair for pair in SOURCES_AND_TARGETS if _fits(model, tokenizer, pair[0])]
    promise = _generation_promise(model, tokenizer, "seq2seq-lm", [source for source, _ in pairs], folder)
    promise |= {"targets": [target for _, target in pairs], "max_length": _positions(model, tokenizer)}
    outputs = answer_sources(model, tokenizer, promise)
    if model.config.has_stock_layers:
        outputs["source_logits"] = answer_texts(model, tokenizer, promise)["logits"]
        promise["doors"].append("BertForMaskedLM")
    return outputs, promise


def _ask_masked_lm(model: PreTrainedModel, tokenizer, folder: Path) -> tuple[dict, dict]:
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


# ---- checking


def _open_encoder(folder: str, promise: dict) -> dict:
    model = CoSENTModel.from_pretrained(folder, dtype=torch.float32)
    outputs = {"output": model.encode(promise["inputs"], prompt="")}
    return outputs | {
        f"output.{name}": model.encode(promise["inputs"], prompt_name=name) for name in promise["prompts"]
    }


def _open_cross_encoder(folder: str, promise: dict) -> dict:
    model = CoSENTCrossEncoder.from_pretrained(folder, dtype=torch.float32)
    return {"output": model.predict([tuple(pair) for pair in promise["inputs"]], prompt="")}


# where suzoo.models is imported, the auto classes know our models and need no flag
SUZOO_DOORS: dict[str, tuple[str, Way]] = {
    "sentence-embedding": ("CoSENTModel (suzoo)", Way(_open_encoder)),
    "cross-encoder": ("CoSENTCrossEncoder (suzoo)", Way(_open_cross_encoder)),
    "classifier": ("AutoModelForSequenceClassification (suzoo)", DOORS["AutoModelForSequenceClassification"]),
    "causal-lm": ("AutoModelForCausalLM (suzoo)", DOORS["AutoModelForCausalLM"]),
    "seq2seq-lm": ("AutoModelForCausalLM (suzoo)", DOORS["AutoModelForCausalLM"]),
    "masked-lm": ("AutoModelForMaskedLM (suzoo)", DOORS["AutoModelForMaskedLM"]),
}


def check_with_suzoo(folder: str | Path) -> Door:
    """The door that `verify` cannot open: suzoo's own class, in this process. It runs no code of the folder.

    Raises:
        ValueError: the folder has no readable golden file.
    """
    name, way = SUZOO_DOORS[read_promise(folder)["kind"]]
    return check_door(name, way, folder)


if __name__ == "__main__":  # the fresh process: --child RESULTS FOLDER
    _, results, folder = sys.argv[1:]
    Path(results).write_text(json.dumps(asdict(check_with_suzoo(folder))), encoding="utf-8")
