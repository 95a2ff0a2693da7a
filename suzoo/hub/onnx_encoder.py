"""ONNX graphs at work: int8 weights, and an encoder that computes its vectors with onnxruntime."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from suzoo.models import CoSENTModel
from suzoo.models.modeling_cosent import SentenceEncoderOutput


def quantize(graph: str | Path, output: str | Path) -> Path:
    """Write `output`: the graph with weights in int8, a scale per channel, activations quantized as they come.

    Raises:
        ValueError: an extra is not installed.
    """
    try:
        from onnxruntime.quantization import QuantType, quantize_dynamic
        from onnxruntime.quantization.shape_inference import quant_pre_process
    except ImportError as error:
        raise ValueError(f"{error.name} is not installed: pip install 'suzoo[onnx]'") from error
    path = Path(output)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        prepared, made = Path(folder) / "prepared.onnx", Path(folder) / "int8.onnx"
        quant_pre_process(str(graph), str(prepared), skip_symbolic_shape=True)
        quantize_dynamic(str(prepared), str(made), per_channel=True, weight_type=QuantType.QInt8)
        os.replace(made, path)
    return path


def graph_of(folder: str | Path) -> Path:
    """The graph in a model's folder: `model.onnx`, or where sentence-transformers puts it, `onnx/model.onnx`.

    Raises:
        ValueError: there is none.
    """
    for name in ("model.onnx", "onnx/model.onnx"):
        if (Path(folder) / name).is_file():
            return Path(folder) / name
    raise ValueError(f"{folder} has no model.onnx: write one with `suzoo export-onnx {folder} {folder}/model.onnx`")


def with_onnx(model: CoSENTModel, graph: str | Path, *, threads: int = 0) -> CoSENTModel:
    """`model`, whose `encode` from now on asks onnxruntime for the vectors of `graph`, which `export_onnx` wrote.

    Prompts, lengths and batches stay what they are. It can't leave the tokens of a prompt out of the pooling, which is
    inside the graph.

    Args:
        threads: of onnxruntime; 0 is torch's number.

    Raises:
        ValueError: an extra is not installed, or the graph has no output `sentence_embedding`.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ValueError(f"{error.name} is not installed: pip install 'suzoo[onnx]'") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    session: Any = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    if "sentence_embedding" not in [value.name for value in session.get_outputs()]:
        raise ValueError(f"{graph} has no output sentence_embedding: write it with `suzoo export-onnx`")
    padding = model.config.pad_token_id or 0

    def forward(input_ids: Tensor, *, lengths: Sequence[int], prompt_length: int = 0) -> SentenceEncoderOutput:
        if prompt_length:
            raise ValueError("the graph pools over all tokens; this model leaves out those of its prompt: use torch")
        mask = np.arange(max(lengths)) < np.asarray(lengths)[:, None]
        ids = np.full(mask.shape, padding, dtype=np.int64)
        ids[mask] = input_ids.numpy()
        given = {"input_ids": ids, "attention_mask": mask.astype(np.int64), "token_type_ids": np.zeros_like(ids)}
        (vectors,) = session.run(["sentence_embedding"], {name: given[name] for name in names})
        return SentenceEncoderOutput(sentence_embedding=torch.from_numpy(vectors))

    model.forward = forward
    return model
