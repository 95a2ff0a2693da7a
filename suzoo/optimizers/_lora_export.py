"""Low-rank changes of a model's weights as an adapter folder of peft."""

from __future__ import annotations

import json
import stat
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear


def layers_of(model: nn.Module, params: Sequence[Tensor]) -> list[list[str]]:
    """For each parameter the names of the nn.Linear that have it as their weight: several, if they are tied.

    Raises:
        ValueError: something else than the weight of an nn.Linear, alone or tied to one.
    """
    owners: dict[Tensor, list[tuple[str, str, nn.Module]]] = {param: [] for param in params}
    for layer, module in model.named_modules(remove_duplicate=False):
        for name, param in module._parameters.items():
            if param is not None and param in owners:
                owners[param].append((layer, name, module))
    for param, found in owners.items():
        if not found:
            raise ValueError(f"an adapted matrix of shape {(*param.shape,)} is no parameter of this model")
        for layer, name, module in found:
            # nn.MultiheadAttention multiplies by its out_proj.weight itself, past what peft puts around that layer
            adaptable = isinstance(module, nn.Linear) and not isinstance(module, NonDynamicallyQuantizableLinear)
            if not adaptable or name != "weight":
                others = " and ".join(other for other, _, _ in found if other != layer)
                raise ValueError(
                    f"an adapter holds changes of nn.Linear only, but an adapted matrix is the {name} of {layer}, of "
                    f"class {type(module).__name__}{others and f', tied to {others}'}: save the whole model"
                )
        if len({module for _, _, module in found}) < len(found):
            raise ValueError(
                f"{' and '.join(layer for layer, _, _ in found)} share one layer, which peft adapts under one name "
                "only: save the whole model"
            )
    return [[layer for layer, _, _ in owners[param]] for param in params]


def write_adapter(
    folder: Path, layers: list[list[str]], pairs: list[tuple[Tensor, Tensor]], *, alpha: float, base: str
) -> None:
    """adapter_config.json and adapter_model.safetensors with A (r, n) and B (m, r) of `pairs` for all `layers` of each:
    peft adds alpha / r B A to their weights."""
    from peft import LoraConfig  # half a second of imports that only this function needs
    from safetensors.torch import save_file

    tensors = {}
    for names, (a, b) in zip(layers, pairs, strict=True):
        for name in names:
            for part, value in (("lora_A", a), ("lora_B", b)):
                # a copy, because safetensors refuses one tensor under two names
                tensors[f"base_model.model.{name}.{part}.weight"] = value.detach().contiguous().cpu().clone()
    targets = sorted(name for names in layers for name in names)
    config = LoraConfig(r=len(pairs[0][0]), target_modules=targets, base_model_name_or_path=base).to_dict()
    config |= {"lora_alpha": alpha, "target_modules": targets}
    folder.mkdir(parents=True, exist_ok=True)
    written, weights = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    written.write_text(json.dumps(config, indent=2))
    save_file(tensors, weights)
    weights.chmod(stat.S_IMODE(written.stat().st_mode))  # safetensors 0.8 leaves them to their owner alone
