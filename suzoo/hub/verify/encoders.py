"""The doors of encoders, cross-encoders and classifiers: each takes the folder and the promise, and returns
{tensor name: array}. Libraries are imported inside.

Tokenizers and models are called with their own defaults: what a stranger does not pass is part of the promise.
"""

from __future__ import annotations

from typing import Any

from .comparison import expect_equal


def float32() -> dict:
    import torch

    return {"dtype": torch.float32}


def _pool(output, mask_BL, promise: dict):
    """The pooling a reader of the model card computes by hand."""
    hidden_BLD = output.last_hidden_state
    if promise["pooling"] == "first-last-avg":
        hidden_BLD = (output.hidden_states[1] + output.hidden_states[-1]) / 2
    if promise["pooling"] == "cls":
        pooled_BD = hidden_BLD[:, 0]
    elif promise["pooling"] == "last":
        pooled_BD = hidden_BLD[range(len(hidden_BLD)), mask_BL.sum(1) - 1]
    else:
        weights_BL1 = mask_BL[..., None].to(hidden_BLD.dtype)
        pooled_BD = (hidden_BLD * weights_BL1).sum(1) / weights_BL1.sum(1)
    if promise["normalize"]:
        pooled_BD = pooled_BD / pooled_BD.norm(dim=-1, keepdim=True)
    return pooled_BD


def by_prompts(promise: dict, answer, knows_default: bool = True) -> dict:
    """{tensor name: array}, without a prompt and with each by its name.

    Args:
        answer: takes prompt= or prompt_name=, or neither for the default one.
        knows_default: False where transformers' files alone are read, which do not say it.

    Raises:
        ValueError: without a prompt's name the default prompt is not what is used.
    """
    outputs = {"output": answer(prompt="")}
    outputs |= {f"output.{name}": answer(prompt_name=name) for name in promise["prompts"]}
    if knows_default and promise["default_prompt"]:
        by_name = outputs[f"output.{promise['default_prompt']}"]
        expect_equal("an input without the name of its prompt", {"output": answer()}, {"output": by_name})
    return outputs


def _expect_prompts(model, promise: dict) -> None:
    """The library knows the prompts that were promised."""
    known = {name: text for name, text in model.prompts.items() if text}  # some versions add empty ones
    for name, text in promise["prompts"].items():
        if known.get(name) != text:
            raise ValueError(f"has for the prompt {name!r} the text {known.get(name)!r}, promised is {text!r}")
    if model.default_prompt_name != promise["default_prompt"]:
        raise ValueError(
            f"takes the prompt {model.default_prompt_name!r} where none is named, promised is "
            f"{promise['default_prompt']!r}"
        )


def open_sentence_transformer(folder: str, promise: dict, *, trust: bool = False) -> dict:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(folder, device="cpu", model_kwargs=float32(), trust_remote_code=trust)
    if promise["max_length"] and model.max_seq_length != promise["max_length"]:
        raise ValueError(f"cuts texts at {model.max_seq_length} tokens, promised are {promise['max_length']}")
    kinds = [type(module).__name__ for module in model]
    if "Pooling" not in kinds:
        raise ValueError(f"has no Pooling, only {', '.join(kinds)}")
    pooling: Any = model[kinds.index("Pooling")]
    mode = pooling.pooling_mode if hasattr(pooling, "pooling_mode") else pooling.get_pooling_mode_str()
    mode = "last" if mode == "lasttoken" else mode
    if mode != promise["pooling"]:
        raise ValueError(f"pools by {mode}, promised is {promise['pooling']}")
    if pooling.include_prompt != promise["include_prompt"]:
        raise ValueError(f"include_prompt of its Pooling is {pooling.include_prompt}, promised is the other")
    if ("Normalize" in kinds) != promise["normalize"]:
        raise ValueError(
            f"{'makes' if 'Normalize' in kinds else 'does not make'} vectors of length 1, promised is the other"
        )
    _expect_prompts(model, promise)
    return by_prompts(promise, lambda **prompt: model.encode(promise["inputs"], **prompt))


def open_auto_model(folder: str, promise: dict, *, trust: bool = False) -> dict:
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust)
    model = AutoModel.from_pretrained(folder, trust_remote_code=trust, **float32()).eval()

    def answer(prompt: str = "", prompt_name: str | None = None):
        prompt = promise["prompts"][prompt_name] if prompt_name else prompt
        texts = [prompt + text for text in promise["inputs"]]
        batch = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        with torch.no_grad():
            output = model(**batch, output_hidden_states=promise["pooling"] == "first-last-avg")
        return _pool(output, batch["attention_mask"], promise).numpy()

    return by_prompts(promise, answer, knows_default=False)


def open_remote_encoder(folder: str, promise: dict) -> dict:
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder, trust_remote_code=True, **float32()).eval()
    assert "transformers_modules" in type(model).__module__, f"{type(model)} is not the code in the folder"
    if not hasattr(model, "encode"):  # the encoder's own code, pooled by hand as a stock one
        return open_auto_model(folder, promise, trust=True)
    return by_prompts(promise, lambda **prompt: model.encode(promise["inputs"], **prompt))


def open_cross_encoder(folder: str, promise: dict) -> dict:
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(folder, device="cpu", model_kwargs=float32())
    pairs = [tuple(pair) for pair in promise["inputs"]]
    activation = type(model.activation_fn).__name__
    if activation != "Identity":
        raise ValueError(f"gives the {activation} of the score, promised is the score itself")
    if not promise["prompts"]:  # older ones know none
        return {"output": model.predict(pairs)}
    _expect_prompts(model, promise)
    return by_prompts(promise, lambda **prompt: model.predict(pairs, **prompt))


def open_sequence_classification(folder: str, promise: dict) -> dict:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    model = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=False, **float32()).eval()
    of_classes = promise["kind"] == "classifier"  # texts and all logits; else pairs and one score
    inputs = promise["inputs"]

    def answer(prompt: str = "", prompt_name: str | None = None):
        prompt = promise["prompts"][prompt_name] if prompt_name else prompt
        columns = [inputs] if of_classes else [[prompt + a for a, _ in inputs], [b for _, b in inputs]]
        batch = tokenizer(*columns, padding=True, truncation=True, return_tensors="pt")
        with torch.no_grad():
            logits = model(**batch).logits
        return (logits if of_classes else logits[:, 0]).numpy()

    return {"output": answer()} if of_classes else by_prompts(promise, answer, knows_default=False)


def open_classification_pipeline(folder: str, promise: dict) -> dict:
    import numpy as np
    from transformers import pipeline

    classify: Any = pipeline("text-classification", model=folder, device="cpu", trust_remote_code=False, **float32())
    if promise["kind"] == "classifier":
        answers = classify(promise["inputs"], truncation=True, top_k=None, function_to_apply="none")
        scores = [{entry["label"]: entry["score"] for entry in answer} for answer in answers]
        names = classify.model.config.id2label
        return {"output": np.array([[score[names[i]] for i in range(len(names))] for score in scores])}
    if classify.model.config.problem_type != "regression":
        raise ValueError(
            f"takes the sigmoid of the score, because problem_type is {classify.model.config.problem_type}"
        )
    pairs = [{"text": first, "text_pair": second} for first, second in promise["inputs"]]
    answers = classify(pairs, truncation=True, batch_size=len(pairs))
    return {"output": np.array([answer["score"] for answer in answers])}


def open_remote_cross_encoder(folder: str, promise: dict) -> dict:
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True, **float32()).eval()
    assert "transformers_modules" in type(model).__module__, f"{type(model)} is not the code in the folder"
    pairs = [tuple(pair) for pair in promise["inputs"]]
    return by_prompts(promise, lambda **prompt: model.predict(pairs, **prompt))
