"""The doors of encoders, cross-encoders and classifiers: each takes the folder and the promise, and returns
{tensor name: array}. Libraries are imported inside."""

from __future__ import annotations

from typing import Any


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


def _prompted(promise: dict) -> dict[str, str]:
    """{tensor name: the text that goes before every input}."""
    return {"output": ""} | {f"output.{name}": text for name, text in promise.get("prompts", {}).items()}


def open_sentence_transformer(folder: str, promise: dict, *, trust: bool = False) -> dict:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(folder, device="cpu", model_kwargs=float32(), trust_remote_code=trust)
    outputs = {"output": model.encode(promise["inputs"], prompt="")}
    for name in promise.get("prompts", {}):
        outputs[f"output.{name}"] = model.encode(promise["inputs"], prompt_name=name)
    return outputs


def open_auto_model(folder: str, promise: dict, *, trust: bool = False) -> dict:
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust)
    model = AutoModel.from_pretrained(folder, trust_remote_code=trust, **float32()).eval()
    outputs = {}
    for tensor, prompt in _prompted(promise).items():
        texts = [prompt + text for text in promise["inputs"]]
        batch = tokenizer(
            texts, padding=True, truncation=True, max_length=promise.get("max_length"), return_tensors="pt"
        )
        with torch.no_grad():
            output = model(**batch, output_hidden_states=promise["pooling"] == "first-last-avg")
        outputs[tensor] = _pool(output, batch["attention_mask"], promise).numpy()
    return outputs


def open_remote_encoder(folder: str, promise: dict) -> dict:
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder, trust_remote_code=True, **float32()).eval()
    assert "transformers_modules" in type(model).__module__, f"{type(model)} is not the code in the folder"
    if not hasattr(model, "encode"):  # the encoder's own code, pooled by hand as a stock one
        return open_auto_model(folder, promise, trust=True)
    outputs = {"output": model.encode(promise["inputs"], prompt="")}
    for name in promise.get("prompts", {}):
        outputs[f"output.{name}"] = model.encode(promise["inputs"], prompt_name=name)
    return outputs


def open_cross_encoder(folder: str, promise: dict) -> dict:
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(folder, device="cpu", model_kwargs=float32())
    return {"output": model.predict([tuple(pair) for pair in promise["inputs"]])}


def open_sequence_classification(folder: str, promise: dict) -> dict:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    model = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=False, **float32()).eval()
    of_classes = promise["kind"] == "classifier"  # texts and all logits; else pairs and one score
    inputs = promise["inputs"]
    columns = [inputs] if of_classes else [[pair[i] for pair in inputs] for i in (0, 1)]
    batch = tokenizer(
        *columns, padding=True, truncation=True, max_length=promise.get("max_length"), return_tensors="pt"
    )
    with torch.no_grad():
        logits = model(**batch).logits
    return {"output": (logits if of_classes else logits[:, 0]).numpy()}


def open_classification_pipeline(folder: str, promise: dict) -> dict:
    import numpy as np
    from transformers import pipeline

    classify: Any = pipeline("text-classification", model=folder, device="cpu", trust_remote_code=False, **float32())
    length = {"max_length": promise["max_length"]} if promise.get("max_length") else {}
    if promise["kind"] == "classifier":
        answers = classify(promise["inputs"], truncation=True, top_k=None, function_to_apply="none", **length)
        scores = [{entry["label"]: entry["score"] for entry in answer} for answer in answers]
        names = classify.model.config.id2label
        return {"output": np.array([[score[names[i]] for i in range(len(names))] for score in scores])}
    pairs = [{"text": first, "text_pair": second} for first, second in promise["inputs"]]
    answers = classify(pairs, truncation=True, **length)
    return {"output": np.array([answer["score"] for answer in answers])}


def open_remote_cross_encoder(folder: str, promise: dict) -> dict:
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True, **float32()).eval()
    assert "transformers_modules" in type(model).__module__, f"{type(model)} is not the code in the folder"
    return {"output": model.predict([tuple(pair) for pair in promise["inputs"]])}
