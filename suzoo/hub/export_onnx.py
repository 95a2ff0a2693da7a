"""ONNX files of a saved encoder (tokens in, a vector per sentence out) or cross-encoder (tokens in, a score out)."""

from __future__ import annotations

import json
import logging
import os
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from suzoo.models import CoSENTCrossEncoder, CoSENTModel

OUTPUTS: dict[type, str] = {CoSENTModel: "sentence_embedding", CoSENTCrossEncoder: "score"}


class _Exported(nn.Module):
    """The model with positional inputs and a single output tensor, which is what an ONNX graph has."""

    def __init__(self, model: CoSENTModel | CoSENTCrossEncoder):
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        out = self.model(input_ids=input_ids, attention_mask=attention_mask, **types)
        if isinstance(self.model, CoSENTCrossEncoder):
            return out.logits[:, 0]
        vectors = out.sentence_embedding
        return nn.functional.normalize(vectors, dim=-1) if self.model.normalize else vectors


def export_onnx(folder: str | Path, output: str | Path, *, opset: int = 18, trust_remote_code: bool = False) -> Path:
    """Write `output`, an ONNX graph in float32 of the model in `folder`, for any batch size and length.

    Inputs are what the model's tokenizer gives: `input_ids`, `attention_mask` and, where the tokenizer makes them,
    `token_type_ids`, int64 (B, L). Output: `sentence_embedding` (B, D), pooled and, if the model is saved so,
    normalised; or `score` (B,).

    Args:
        trust_remote_code: let the model run Python code that it brings along.

    Raises:
        ValueError: the folder holds no CoSENT encoder or cross-encoder, or an extra is not installed.
    """
    return export_model(load_model(folder, trust_remote_code=trust_remote_code), output, opset=opset)


def load_model(folder: str | Path, *, trust_remote_code: bool = False) -> CoSENTModel | CoSENTCrossEncoder:
    """The encoder or cross-encoder of a folder, as it can be exported."""
    folder = Path(folder)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{folder} is not a folder of a saved model: it has no config.json") from error
    is_classifier = any(name.endswith("ForSequenceClassification") for name in config.get("architectures", []))
    model_class = CoSENTCrossEncoder if is_classifier else CoSENTModel
    # eager attention: plain matrix products, which every runtime has
    options: dict[str, Any] = {"dtype": torch.float32, "attn_implementation": "eager"}
    return model_class.from_pretrained(str(folder), **options, trust_remote_code=trust_remote_code)


def export_model(model: CoSENTModel | CoSENTCrossEncoder, output: str | Path, *, opset: int = 18) -> Path:
    """`export_onnx` of what `load_model` gave."""
    try:
        import onnx
        import onnxscript  # noqa: F401  (torch's exporter needs it)
    except ImportError as error:
        raise ValueError(f"{error.name} is not installed: pip install 'suzoo[onnx]'") from error
    path = Path(output)
    texts = ["一个", "another text"]  # two different lengths, so that the mask is not constant
    tokenizer: Any = model.tokenizer
    names = tokenizer.model_input_names
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    inputs = [name for name in ("input_ids", "attention_mask", "token_type_ids") if name in names]
    dynamic = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of every optional package it does not find
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.onnx")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                _Exported(model).eval(),
                tuple(batch[name] for name in inputs),
                input_names=inputs,
                output_names=[OUTPUTS[type(model)]],
                dynamic_shapes=tuple(dynamic for _ in inputs),
                opset_version=opset,
                dynamo=True,
                verbose=False,
            )
        assert program is not None  # None is for the exporter that dynamo=False chooses
        program.save(temporary, external_data=False)
        onnx.checker.check_model(str(temporary))
        for node in onnx.load(str(temporary)).graph.input:  # the exporter fixes a size in silence where it has to
            sizes = [dim.dim_param for dim in node.type.tensor_type.shape.dim]
            assert all(sizes), f"{node.name} of the exported graph has a fixed size: {sizes}"
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
