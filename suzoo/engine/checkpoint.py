"""Checkpoints: safetensors and JSON with a manifest of checksums, renamed into place. No pickle is read or written.

A folder `step-00000120/` holds `tensors.safetensors` (weights, optimizer and schedule state), `state.json` (what is not
a tensor, with references into it), `rng-<rank>.json` and `manifest.json` (SHA-256 of every file). It appears under its
name only when complete, so a killed run leaves the last complete one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from suzoo.distributed import barrier, rank

logger = logging.getLogger(__name__)


def encode(value: Any, tensors: dict[str, Tensor], name: str) -> Any:
    """`value` as plain JSON; its tensors go to `tensors` under names that begin with `name`.

    Sharded tensors are gathered whole, which every rank must take part in.
    """
    if isinstance(value, DTensor):
        placements = [p.dim if isinstance(p, Shard) else None for p in value.placements]
        tensors[name] = value.full_tensor().cpu()
        return {"!": "sharded", "name": name, "placements": placements}
    if isinstance(value, Tensor):
        tensors[name] = value.detach().cpu()
        return {"!": "tensor", "name": name}
    if isinstance(value, dict):
        return {"!": "dict", "items": [[key, encode(item, tensors, f"{name}.{key}")] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {"!": kind, "items": [encode(item, tensors, f"{name}.{i}") for i, item in enumerate(value)]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{name} is a {type(value).__name__}: a checkpoint keeps tensors, numbers, texts, lists and dicts")


def decode(value: Any, tensors: dict[str, Tensor], mesh: Any = None) -> Any:
    """The inverse of `encode`; `mesh` is where sharded tensors go."""
    if not isinstance(value, dict):
        return value
    kind = value["!"]
    if kind == "tensor":
        return tensors[value["name"]].clone()
    if kind == "sharded":
        placements = [Replicate() if dim is None else Shard(dim) for dim in value["placements"]]
        return distribute_tensor(tensors[value["name"]].to(mesh.device_type), mesh, placements)
    if kind == "dict":
        return {key: decode(item, tensors, mesh) for key, item in value["items"]}
    items = [decode(item, tensors, mesh) for item in value["items"]]
    return tuple(items) if kind == "tuple" else items


def rng_state() -> dict:
    """State of every generator a training step may use, on this rank."""
    state: Any = np.random.get_state()
    name, keys, *rest = state
    return {
        "torch": torch.get_rng_state().tolist(),
        "cuda": [state.tolist() for state in torch.cuda.get_rng_state_all()] if torch.cuda.is_available() else [],
        "python": random.getstate(),
        "numpy": [name, keys.tolist(), *rest],
    }


def set_rng_state(state: dict) -> None:
    torch.set_rng_state(torch.tensor(state["torch"], dtype=torch.uint8))
    if state["cuda"]:
        torch.cuda.set_rng_state_all([torch.tensor(s, dtype=torch.uint8) for s in state["cuda"]])
    version, keys, gauss = state["python"]
    random.setstate((version, tuple(keys), gauss))
    np.random.set_state((state["numpy"][0], np.array(state["numpy"][1], dtype=np.uint32), *state["numpy"][2:]))


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def full_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The weights as plain CPU tensors; gathers sharded ones, which every rank must take part in."""
    state = {}
    for name, value in model.state_dict().items():
        state[name] = (value.full_tensor() if isinstance(value, DTensor) else value.detach()).cpu()
    return state


@contextlib.contextmanager
def written_whole(folder: Path):
    """A temporary folder to write into; it gets a manifest and the name `folder` when the block ends well."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        manifest = {path.name: sha256(path) for path in sorted(partial.iterdir())}
        (partial / "manifest.json").write_text(json.dumps(manifest, indent=2))
        for path in [*partial.iterdir(), partial]:
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def is_whole(folder: Path) -> bool:
    """True when every file is there and has the checksum of the manifest."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        return all(sha256(folder / name) == digest for name, digest in manifest.items())
    except (OSError, ValueError):
        return False


def _shared(tensors: dict[str, Tensor]) -> dict[str, str]:
    """Names whose storage an earlier name holds already (tied weights), with that name."""
    seen: dict[tuple, str] = {}
    aliases = {}
    for name, tensor in tensors.items():
        key = (tensor.data_ptr(), tensor.shape, tensor.stride())
        if tensor.numel() and seen.setdefault(key, name) != name:
            aliases[name] = seen[key]
    return aliases


def save_checkpoint(folder: Path, *, model: nn.Module, state: dict) -> None:
    """Write the weights of `model` (unwrapped) and `state`, from rank 0; every rank must call it.

    `state` may nest dicts, lists and tuples of tensors, numbers and texts: state dicts of optimizers and schedules.
    """
    tensors: dict[str, Tensor] = {}
    encoded = encode({"model": dict(model.state_dict()), "state": state}, tensors, "")
    folder.parent.mkdir(parents=True, exist_ok=True)
    # written before the rename, next to the folder, by every rank
    rng = folder.with_name(f".{folder.name}.rng-{rank()}.json")
    rng.write_text(json.dumps(rng_state()))
    barrier()
    if rank() == 0:
        with written_whole(folder) as partial:
            aliases = _shared(tensors)
            kept = {name: tensor.contiguous() for name, tensor in tensors.items() if name not in aliases}
            save_file(kept, partial / "tensors.safetensors")
            (partial / "state.json").write_text(json.dumps({"state": encoded, "aliases": aliases}))
            for path in folder.parent.glob(f".{folder.name}.rng-*.json"):
                shutil.move(path, partial / path.name.removeprefix(f".{folder.name}."))
    barrier()


def load_checkpoint(folder: Path, *, model: nn.Module) -> dict:
    """Put the weights into `model` and this rank's random numbers into place; returns the `state` that was saved.

    Raises:
        ValueError: the weights are of another model, or the checkpoint of fewer processes.
    """
    tensors = load_file(folder / "tensors.safetensors")
    content = json.loads((folder / "state.json").read_text())
    tensors |= {name: tensors[source] for name, source in content["aliases"].items()}
    own = model.state_dict()
    mesh = next((value.device_mesh for value in own.values() if isinstance(value, DTensor)), None)
    saved = decode(content["state"], tensors, mesh)
    weights = saved["model"]
    if weights.keys() != own.keys() or any(weights[name].shape != value.shape for name, value in own.items()):
        raise ValueError(
            f"{folder} holds the weights of another model: resume with the flags and the data that the run began with"
        )
    model.load_state_dict(weights)
    path = folder / f"rng-{rank()}.json"
    if not path.exists():
        raise ValueError(f"{folder} was written by fewer processes than now run: resume with the same number")
    set_rng_state(json.loads(path.read_text()))
    return saved["state"]


def checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first; a damaged one is named in a warning and left out."""
    found = []
    for path in sorted(folder.glob("step-*")):
        if is_whole(path):
            found.append(path)
        else:
            logger.warning("%s is damaged (checksums differ) and is not used", path)
    return found
