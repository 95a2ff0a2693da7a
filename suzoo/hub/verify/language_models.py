"""The doors of language models, and the questions they are asked; the writer of the golden file asks the same.

Each door takes the folder and the promise, and returns {tensor name: array}. Libraries are imported inside.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .batches import ask_in_batches
from .encoders import float32


def prompt_inputs(tokenizer, prompt: str | list[dict]) -> dict:
    """Tokens and mask of a text, or of a chat (a list of messages) by the tokenizer's template, ready for a reply."""
    if isinstance(prompt, str):
        inputs = tokenizer(prompt, return_tensors="pt")
    else:
        inputs = tokenizer.apply_chat_template(
            prompt, add_generation_prompt=True, return_dict=True, return_tensors="pt"
        )
    # the token types that tokenizers add are left out: models that need some know them better
    return {name: inputs[name] for name in ("input_ids", "attention_mask")}


def logits_at(model, batches: list[dict], place: Callable[[list[int]], int]):
    """(N, V) logits of N sequences, each by itself, at position `place(ids)`."""
    import numpy as np
    import torch

    with torch.no_grad():
        rows = [model(**inputs).logits[0, place(inputs["input_ids"][0].tolist())] for inputs in batches]
    return np.stack([row.numpy() for row in rows])


def greedy_tokens(model, tokenizer, promise: dict):
    """(N, T) what each prompt is continued by, for as many tokens as promised; -1 behind them."""
    import numpy as np

    rows_NT = np.full((len(promise["inputs"]), max(promise["new_tokens"])), -1)
    for row, (prompt, new_tokens) in enumerate(zip(promise["inputs"], promise["new_tokens"], strict=True)):
        if new_tokens:
            inputs = prompt_inputs(tokenizer, prompt)
            ids = model.generate(**inputs, max_new_tokens=new_tokens, do_sample=False, num_beams=1)[0]
            reply = ids[inputs["input_ids"].shape[1] :].tolist()
            rows_NT[row, : len(reply)] = reply
    return rows_NT


def answer_prompts(model, tokenizer, promise: dict) -> dict:
    """A causal language model: logits behind each prompt, and its greedy continuation."""
    batches = [prompt_inputs(tokenizer, prompt) for prompt in promise["inputs"]]
    return {
        "logits": logits_at(model, batches, lambda ids: -1),
        "generated": greedy_tokens(model, tokenizer, promise),
    }


def answer_sources(model, tokenizer, promise: dict) -> dict:
    """A sequence-to-sequence model in one decoder: logits behind each given target, and its own greedy target."""
    pairs = zip(promise["inputs"], promise["targets"], strict=True)
    batches = [dict(tokenizer(source, text_pair=target, return_tensors="pt")) for source, target in pairs]
    return {
        "logits": logits_at(model, batches, lambda ids: -2),  # where the last [SEP] is predicted
        "generated": greedy_tokens(model, tokenizer, promise),
    }


def answer_texts(model, tokenizer, promise: dict) -> dict:
    """A masked language model: logits in the middle of each text, and where it has them, the scores of the texts."""
    batches = [dict(tokenizer(text, truncation=True, return_tensors="pt")) for text in promise["inputs"]]
    outputs = {"logits": logits_at(model, batches, lambda ids: len(ids) // 2)}
    if promise.get("scores"):
        outputs["score"] = model.score(promise["inputs"], tokenizer=tokenizer).numpy()
    return outputs


ANSWERS = {"causal-lm": answer_prompts, "seq2seq-lm": answer_sources, "masked-lm": answer_texts}


def open_language_model(folder: str, promise: dict, *, auto_class: str, trust: bool = False) -> dict:
    import transformers

    model_class = getattr(transformers, auto_class)
    model = model_class.from_pretrained(folder, trust_remote_code=trust, **float32()).eval()
    assert not trust or "transformers_modules" in type(model).__module__, f"{type(model)} is not the code in the folder"
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=trust)
    if promise["kind"] == "causal-lm":
        ends = model.generation_config.eos_token_id
        if tokenizer.eos_token_id not in (ends if isinstance(ends, list) else [ends]):
            raise ValueError(f"generate() ends at {ends}, and not at the tokenizer's eos_token {tokenizer.eos_token}")
    outputs = ANSWERS[promise["kind"]](model, tokenizer, promise)
    own_code = not type(model).__module__.startswith("transformers.")
    ask_in_batches(model, tokenizer, promise, outputs, own_code=own_code)
    return outputs


def open_bert_for_masked_lm(folder: str, promise: dict) -> dict:
    """The stock class over the weights of UniLM computes what UniLM does where all is source."""
    from transformers import AutoTokenizer, BertForMaskedLM

    model = BertForMaskedLM.from_pretrained(folder, **float32()).eval()
    # with a stock config at hand, transformers does not ask about the code in the folder
    tokenizer = AutoTokenizer.from_pretrained(folder, config=model.config, trust_remote_code=False)
    return {"source_logits": answer_texts(model, tokenizer, promise)["logits"]}


def open_fill_mask_pipeline(folder: str, promise: dict, trust: bool = False) -> dict:
    import numpy as np
    from transformers import pipeline

    fill = pipeline("fill-mask", model=folder, device="cpu", trust_remote_code=trust, **float32())
    # the best probabilities and not their tokens, which rounding may exchange
    return {"fill_mask": np.array([[best["score"] for best in fill(text)] for text in promise["masked"]])}


def open_text_generation_pipeline(folder: str, promise: dict, trust: bool = False) -> dict:
    """Compares texts and raises: a tokenizer may lose its decoder on the way through a folder."""
    from transformers import pipeline

    generate = pipeline("text-generation", model=folder, device="cpu", trust_remote_code=trust, **float32())
    for prompt, new_tokens, text in zip(promise["inputs"], promise["new_tokens"], promise["texts"], strict=True):
        if new_tokens:
            options = {"max_new_tokens": new_tokens, "do_sample": False, "num_beams": 1, "return_full_text": False}
            said = generate(prompt, **options)[0]["generated_text"]
            if said.strip() != text.strip():
                raise ValueError(f"{prompt!r} is continued by {said!r}, promised is {text!r}")
    return {}
