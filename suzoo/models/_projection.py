"""A linear layer behind the pooling: what sentence-transformers calls Dense, and SimBERT's vector needs.

The folder keeps it as sentence-transformers does: `2_Dense/config.json` and `2_Dense/model.safetensors`.
Shapes: N sentences, D hidden size, E size of a vector.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ._file_modes import share_weights
from ._sentence_files import find_file, read_json, write_json

FOLDER, WEIGHTS = "2_Dense", "model.safetensors"
# By the names under which the folder keeps them
ACTIVATIONS = {"torch.nn.modules.linear.Identity": nn.Identity, "torch.nn.modules.activation.Tanh": nn.Tanh}
_PLAIN = {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding", "use_residual": False}


class Projection(nn.Module):
    """(N, D) to (N, E), float32 at least: a linear layer, then tanh where it is asked for.

    Args:
        in_features, out_features: D and E.
        bias: whether the layer has one.
        tanh: as BERT's own pooler has; SimBERT was trained without.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, tanh: bool = False) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, out_features, bias=bias)
        self.activation = nn.Tanh() if tanh else nn.Identity()

    def forward(self, pooled_ND: Tensor) -> Tensor:
        vectors_NE = self.activation(self.linear(pooled_ND.to(self.linear.weight.dtype)))
        return vectors_NE if vectors_NE.dtype == torch.float64 else vectors_NE.float()


def read_projection(path: str, modules: list[dict], hidden_size: int, options: dict[str, Any]) -> Projection | None:
    """The Dense module that `modules.json` names, with its weights; None where it names none.

    Raises:
        ValueError: another Dense than a linear layer of the pooled vector with Identity or Tanh, or no whole weights in
            safetensors.
    """
    named = [module["path"] for module in modules if module["type"].endswith(".Dense")]
    if not named:
        return None
    if len(named) > 1:
        raise ValueError(f"modules.json of {path} names {len(named)} Dense modules; suzoo has one")
    config = read_json(path, f"{named[0]}/config.json", options)
    if config is None:
        raise ValueError(f"modules.json of {path} names {named[0]}/config.json, which is missing")
    activation = config.get("activation_function", "torch.nn.modules.activation.Tanh")
    if activation not in ACTIVATIONS:
        raise ValueError(f"{named[0]}/config.json of {path} names {activation}; suzoo has Identity and Tanh of torch")
    odd = [name for name, plain in _PLAIN.items() if config.get(name, plain) != plain]
    if odd:
        raise ValueError(f"{named[0]}/config.json of {path} sets {odd[0]} to {config[odd[0]]!r}, which suzoo has not")
    if config["in_features"] != hidden_size:
        raise ValueError(
            f"{named[0]}/config.json of {path} takes {config['in_features']} numbers, the encoder gives {hidden_size}"
        )
    projection = Projection(
        hidden_size, config["out_features"], config.get("bias", True), ACTIVATIONS[activation] is nn.Tanh
    )
    weights = find_file(path, f"{named[0]}/{WEIGHTS}", options)
    if weights is None:
        raise ValueError(f"{named[0]} of {path} has no {WEIGHTS}; suzoo reads no pickle, save it as safetensors")
    try:
        projection.load_state_dict(load_file(weights))
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"{weights} does not hold the weights of its config.json: {error}") from error
    return projection


def write_projection(folder: Path, projection: Projection, weights: dict[str, Tensor]) -> None:
    """Write `2_Dense`; `weights` are those of its state dict."""
    linear, activation = projection.linear, projection.activation
    name = next(name for name, kind in ACTIVATIONS.items() if type(activation) is kind)
    sizes = {"in_features": linear.in_features, "out_features": linear.out_features, "bias": linear.bias is not None}
    write_json(folder / FOLDER / "config.json", {**sizes, "activation_function": name})
    weights = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    save_file(weights, folder / FOLDER / WEIGHTS, metadata={"format": "pt"})
    share_weights(folder / FOLDER)
