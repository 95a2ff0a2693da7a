"""Parameter groups by what a parameter is: matrix, embedding, norm weight, or bias."""

from __future__ import annotations

import math
import re
from typing import Any

from torch import Tensor, nn

KINDS = ("matrix", "embedding", "norm", "bias")
SHAPED = ("matrix", "embedding")  # kinds of two dimensions or more
_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.batchnorm._NormBase)
_NUMBERED_LAYER = re.compile(r"(?:^|\.)(?:layers?|blocks?|h)\.(\d+)\.")


def _is_norm(module: nn.Module) -> bool:
    # transformers has a norm class of its own in every second model; all of them are named so
    return isinstance(module, _NORMS) or type(module).__name__.endswith("Norm")


def is_flat_piece(group: dict[str, Any], param: Tensor) -> bool:
    """True where a group of matrices or embeddings holds a vector, as DeepSpeed ZeRO puts them into their place."""
    return group.get("kind") in SHAPED and param.dim() < 2


def parameter_kinds(model: nn.Module) -> dict[str, str]:
    """Name of every trainable parameter -> "matrix", "embedding", "norm" or "bias".

    Decided by the module that owns the parameter, because torch calls the gain of a norm `weight` like any matrix.
    A weight tied to an embedding is an embedding. Vectors and scalars outside norms count as "bias".

    Raises:
        ValueError: FSDP1 has flattened the parameters, so that every matrix looks like a vector.
    """
    kind_of = {}
    for module in model.modules():
        if type(module).__name__ == "FullyShardedDataParallel":
            raise ValueError(
                "FSDP1 (FullyShardedDataParallel) has made flat vectors of the parameters, which have no kind: use "
                "FSDP2 (fully_shard), or give the optimizer model.parameters()"
            )
        for name, param in module.named_parameters(recurse=False):
            if isinstance(module, nn.Embedding | nn.EmbeddingBag):
                kind = "embedding"
            elif param.ndim < 2:
                kind = "norm" if _is_norm(module) and name != "bias" else "bias"
            else:
                kind = "matrix"
            if kind_of.get(param) != "embedding":
                kind_of[param] = kind
    return {name: kind_of[param] for name, param in model.named_parameters() if param.requires_grad}


def _layer_numbers(names: list[str]) -> dict[str, int]:
    """0 for what comes before the first numbered layer, i + 1 for layer i, num_layers + 1 for what comes after."""
    found = {name: _NUMBERED_LAYER.search(name) for name in names}
    indices = [int(match[1]) for match in found.values() if match]
    if not indices:
        raise ValueError(
            "param_groups(layer_decay=...) found no numbered layers: parameter names need a part like `layer.3.`"
        )
    numbers, seen_layer = {}, False
    for name, match in found.items():
        seen_layer = seen_layer or match is not None
        if match:
            numbers[name] = int(match[1]) + 1
        else:
            numbers[name] = max(indices) + 2 if seen_layer else 0
    return numbers


def param_groups(
    model: nn.Module,
    *,
    weight_decay: float,
    lr: float | None = None,
    layer_decay: float = 1.0,
    no_decay: tuple[str, ...] = ("norm", "bias"),
) -> list[dict]:
    """Groups for any torch optimizer: decay by kind of parameter, optionally smaller rates for lower layers.

    Every group has the keys `params`, `weight_decay`, `kind` (see `parameter_kinds`; `Tiger` needs it), `name`, and
    `lr` when it is given. Frozen parameters are left out and a tied parameter appears once.

    Args:
        model: the model, not a list of parameters: the kind comes from the modules.
        weight_decay: for the kinds that decay; the kinds in `no_decay` get 0.
        lr: base rate. None leaves the rate to the optimizer.
        layer_decay: each level down costs one factor (the layer-wise decay of ELECTRA and BEiT). What follows the last
            numbered layer (pooler, head) gets lr, the last layer lr * layer_decay, and so on. What precedes the first
            numbered layer (the embeddings) is the lowest level. In (0, 1]; 1 is off.
        no_decay: kinds without weight decay. The default is bert4keras' and transformers' convention; add "embedding"
            to keep rare words from shrinking.

    Raises:
        ValueError: nothing to train, an unknown kind, layer_decay without lr or without numbered layers, or a model
            that FSDP1 has wrapped.
    """
    if unknown := set(no_decay) - set(KINDS):
        raise ValueError(f"no_decay has unknown kinds {sorted(unknown)}; choose from {', '.join(KINDS)}")
    if not 0 < layer_decay <= 1:
        raise ValueError(f"layer_decay must be in (0, 1], not {layer_decay}")
    if layer_decay != 1 and lr is None:
        raise ValueError("layer_decay multiplies a base rate: pass lr= as well")
    if not (weight_decay >= 0 and math.isfinite(weight_decay)):
        raise ValueError(f"weight_decay must be finite and not negative, not {weight_decay}")
    kinds = parameter_kinds(model)
    if not kinds:
        raise ValueError("param_groups found no parameter with requires_grad=True")
    numbers = _layer_numbers([*kinds]) if layer_decay != 1 else dict.fromkeys(kinds, 0)
    top = max(numbers.values())
    groups: dict[tuple[int, str], dict] = {}
    for name, param in model.named_parameters():
        if name not in kinds:
            continue
        number, kind = numbers[name], kinds[name]
        group = groups.setdefault(
            (number, kind),
            {
                "params": [],
                "weight_decay": 0.0 if kind in no_decay else weight_decay,
                "kind": kind,
                "name": kind if layer_decay == 1 else f"layer{number}.{kind}",
                **({} if lr is None else {"lr": lr * layer_decay ** (top - number)}),
            },
        )
        group["params"].append(param)
    return list(groups.values())
