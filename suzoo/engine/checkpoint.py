"""Checkpoints: safetensors and JSON with a manifest of checksums, renamed into place. No pickle is read or written.

A folder `step-00000120/` holds `shard-00000.safetensors`: weights, optimizer and schedule state. Where they are
sharded, every rank writes its own part as `shard-<rank>`. Beside it are `state.json` (what is not a tensor, with
references into the shards), `random.json` (the generators of every rank) and `manifest.json` (SHA-256 of every file).
It appears under its name only when complete, so a killed run leaves the last complete one. Machines without a shared
disk each keep what their own ranks need, see `suzoo.engine.disks`.
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
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate, Shard

from suzoo.distributed import all_gather_objects, barrier, rank, world_size
from suzoo.engine.disks import Disks
from suzoo.models._devices import random_states, set_random_states

logger = logging.getLogger(__name__)


class OnCPU(dict[str, Tensor]):
    """Tensors by name, on the CPU; what shared its memory on an accelerator (tied weights) is one tensor here, too."""

    def __init__(self) -> None:
        super().__init__()
        self._copies: dict[tuple, tuple[Tensor, Tensor]] = {}

    def __setitem__(self, name: str, tensor: Tensor) -> None:
        key = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if key not in self._copies or not tensor.numel():
            # with the original, or its place could be another tensor's before all are copied
            self._copies[key] = tensor, tensor.cpu()
        super().__setitem__(name, self._copies[key][1])


def encode(value: Any, tensors: OnCPU, name: str) -> Any:
    """`value` as plain JSON; its tensors, of sharded ones this rank's part, go to `tensors` under names that begin with
    `name`."""
    if isinstance(value, DTensor):
        if len(value.placements) != 1:
            raise ValueError("checkpoints keep weights sharded along one dimension of ranks, not a mesh of several")
        (placement,) = value.placements
        dim = placement.dim if isinstance(placement, Shard) else None
        tensors[name] = value.to_local().detach()
        return {"!": "sharded", "name": name, "dim": dim, "shape": list(value.shape)}
    if isinstance(value, Tensor):
        tensors[name] = value.detach()
        return {"!": "tensor", "name": name}
    if isinstance(value, dict):
        return {"!": "dict", "items": [[key, encode(item, tensors, f"{name}.{key}")] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {"!": kind, "items": [encode(item, tensors, f"{name}.{i}") for i, item in enumerate(value)]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{name} is a {type(value).__name__}: a checkpoint keeps tensors, numbers, texts, lists and dicts")


class Reader:
    """The tensors of a checkpoint, however many ranks wrote it: each by name, whole or the rows that are asked for."""

    def __init__(self, folder: Path, num_shards: int, aliases: dict[str, str], mesh: Any = None):
        """
        Args:
            mesh: of the ranks that tensors are to be sharded over; None keeps them whole.
        """
        self.aliases, self.mesh = aliases, mesh
        self.shards = [safe_open(folder / _shard_name(number), framework="pt") for number in range(num_shards)]
        # a rank reads its own shard, where as many ranks run as wrote
        self.was_whole = num_shards == 1
        self.own = self.shards[rank()] if num_shards == world_size() else self.shards[0]

    def whole(self, value: dict) -> Tensor:
        dim = value.get("dim")  # along which it lies in the shards; None where each has it whole
        if dim is None:
            return self.own.get_tensor(self._stored(value["name"]))
        return self.rows(value, dim, 0, value["shape"][dim])

    def rows(self, value: dict, dim: int, start: int, stop: int) -> Tensor:
        """The part from `start` to `stop` along `dim`, read from the shards that hold some of it."""
        if value.get("dim") != dim:
            return self.whole(value).narrow(dim, start, stop - start)
        name, parts, begin = self._stored(value["name"]), [], 0
        for shard in self.shards:
            part = shard.get_slice(name)
            end = begin + part.get_shape()[dim]
            if (begin < stop and start < end) or (begin == start == stop and not parts):
                wanted = slice(max(start - begin, 0), min(stop, end) - begin)
                parts.append(part[(slice(None),) * dim + (wanted,)])
            begin = end
        return torch.cat(parts, dim) if parts else self.whole(value).narrow(dim, 0, 0)

    def shape(self, value: dict) -> list[int]:
        return (
            value["shape"] if value["!"] == "sharded" else self.own.get_slice(self._stored(value["name"])).get_shape()
        )

    def decode(self, value: Any, like: Any = None) -> Any:
        """The inverse of `encode`. What was sharded is sharded again over the ranks that now run, where there is a
        mesh, and whole elsewhere; what was not is sharded where the same place of `like` holds a sharded tensor."""
        if not isinstance(value, dict):
            return value
        kind = value["!"]
        if kind in ("tensor", "sharded"):
            return self._tensor(value, like)
        if kind == "dict":
            inside = like if isinstance(like, dict) else {}
            return {key: self.decode(item, inside.get(key)) for key, item in value["items"]}
        items = [self.decode(item) for item in value["items"]]
        return tuple(items) if kind == "tuple" else items

    def _tensor(self, value: dict, like: Any) -> Tensor:
        shape, like_is_sharded = self.shape(value), isinstance(like, DTensor)
        sharded_now = value["!"] == "sharded" or (self.was_whole and like_is_sharded and shape)
        if self.mesh is None or not sharded_now:
            return self.whole(value)
        dim = value.get("dim")  # of which this rank keeps its part, None where it keeps all
        if like_is_sharded and list(like.shape) == shape:
            (placement,) = like.placements
            dim = placement.dim if isinstance(placement, Shard) else None
        if dim is None:
            local = self.whole(value)
        else:
            local = self.rows(value, dim, *_range_of(shape[dim], rank(), world_size()))
        size = torch.Size(shape)
        return DTensor.from_local(
            local.contiguous().to(self.mesh.device_type),
            self.mesh,
            [Replicate() if dim is None else Shard(dim)],
            run_check=False,
            shape=size,
            stride=torch.empty(size, device="meta").stride(),
        )

    def _stored(self, name: str) -> str:
        return self.aliases.get(name, name)


def _range_of(length: int, place: int, parts: int) -> tuple[int, int]:
    """Which of `length` rows lie on a rank, as torch shards them."""
    most = -(-length // parts)
    return min(place * most, length), min((place + 1) * most, length)


def _shard_name(number: int) -> str:
    return f"shard-{number:05d}.safetensors"


def _other_accelerator() -> torch.device | None:
    """The accelerator that dropout is drawn on where that is no CUDA device, as MPS or XPU."""
    return None if torch.cuda.is_available() else torch.accelerator.current_accelerator(check_available=True)


def rng_state() -> dict:
    """State of every generator a training step may use, on this rank."""
    state: Any = np.random.get_state()
    other = _other_accelerator()
    of_device = None if other is None else random_states(other)[1]
    name, keys, *rest = state
    return {
        "torch": torch.get_rng_state().tolist(),
        "cuda": [state.tolist() for state in torch.cuda.get_rng_state_all()] if torch.cuda.is_available() else [],
        "device": None if of_device is None else of_device.tolist(),
        "python": random.getstate(),
        "numpy": [name, keys.tolist(), *rest],
    }


def set_rng_state(state: dict) -> None:
    torch.set_rng_state(torch.tensor(state["torch"], dtype=torch.uint8))
    visible = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for number, numbers in enumerate(state["cuda"][:visible]):  # a run may go on where fewer GPUs are visible
        torch.cuda.set_rng_state(torch.tensor(numbers, dtype=torch.uint8), number)
    other = _other_accelerator()
    if other is not None and state.get("device"):
        set_random_states((torch.get_rng_state(), torch.tensor(state["device"], dtype=torch.uint8)), other)
    version, keys, gauss = state["python"]
    random.setstate((version, tuple(keys), gauss))
    np.random.set_state((state["numpy"][0], np.array(state["numpy"][1], dtype=np.uint32), *state["numpy"][2:]))


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def full_state_dict(model: nn.Module, *, keep: bool = True) -> dict[str, Tensor]:
    """The weights as plain CPU tensors; gathers sharded ones one by one, which every rank must take part in.

    Args:
        keep: False on ranks that need not have them: they get an empty dict, and never hold more than one tensor.
    """
    state = {}
    for name, value in model.state_dict().items():
        whole = (value.full_tensor() if isinstance(value, DTensor) else value.detach()).cpu()
        if keep:
            state[name] = whole
    return state


def sync_folder(path: Path) -> None:
    """Have the disk write a file, or the names in a folder, before going on."""
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folders, and its renames are journalled
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def written_whole(folder: Path, disks: Disks):
    """A temporary folder for all ranks to write into; it gets a manifest, the same on all disks, and the name `folder`
    when the block ended well on every rank. What a rank wrote is what it found new after its own block."""
    partial = folder.with_name(f".{folder.name}.partial")
    if disks.leads:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    barrier()
    written: list[str] = []
    try:
        yield partial, written
        mine = {name: sha256(partial / name) for name in written}
        manifest = {name: digest for files in all_gather_objects(mine) for name, digest in files.items()}
        shards = [name for name in manifest if name.startswith("shard-")]
        for_all = [name for name in manifest if len(shards) == 1 or name not in shards]
        if disks.number > 1:
            has_them = disks.leaders[rank()] == disks.leaders[0]
            disks.send_missing(partial, for_all, set(for_all) if has_them else set())
        if disks.leads:
            content = {"ranks": world_size(), "files": manifest}
            (partial / "manifest.json").write_text(json.dumps(content, indent=2), encoding="utf-8")
            for path in [*partial.iterdir(), partial]:
                sync_folder(path)
    except BaseException:
        if disks.leads:
            shutil.rmtree(partial, ignore_errors=True)
        raise
    barrier()  # no disk shows it before all have it
    if disks.leads:
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
        sync_folder(folder.parent)
    barrier()


def read_manifest(folder: Path) -> dict | None:
    """What `manifest.json` says: {"ranks": number, "files": {name: SHA-256}}; None when it says nothing of the kind."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    files = manifest.get("files") if isinstance(manifest, dict) else None
    named = isinstance(files, dict) and all(isinstance(digest, str) for digest in files.values())
    return manifest if named and {"state.json", "random.json"} <= files.keys() else None


def sound_files(folder: Path, manifest: dict) -> set[str]:
    """Names of the files that are here with the checksum of the manifest."""
    sound = set()
    for name, digest in manifest["files"].items():
        with contextlib.suppress(OSError):
            if sha256(folder / name) == digest:
                sound.add(name)
    return sound


def is_whole(folder: Path) -> bool:
    """True when every file that the manifest names is here and has its checksum."""
    manifest = read_manifest(folder)
    return manifest is not None and sound_files(folder, manifest) == set(manifest["files"])


def _shared(tensors: dict[str, Tensor]) -> dict[str, str]:
    """Names whose storage an earlier name holds already (tied weights), with that name."""
    seen: dict[tuple, str] = {}
    aliases = {}
    for name, tensor in tensors.items():
        key = (tensor.data_ptr(), tensor.shape, tensor.stride())
        if tensor.numel() and seen.setdefault(key, name) != name:
            aliases[name] = seen[key]
    return aliases


def save_checkpoint(folder: Path, *, model: nn.Module, state: dict, disks: Disks | None = None) -> None:
    """Write the weights of `model` (unwrapped) and `state`; every rank must call it.

    `state` may nest dicts, lists and tuples of tensors, numbers and texts: state dicts of optimizers and schedules.
    What is saved is rank 0's; of what is sharded every rank writes its part.
    """
    disks = disks or Disks.shared()
    weights = dict(model.state_dict())
    sharded = any(isinstance(value, DTensor) for value in weights.values())
    generators = all_gather_objects(rng_state())
    folder.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(folder, disks) as (partial, written):
        if sharded or rank() == 0:
            tensors = OnCPU()
            encoded = encode({"model": weights, "state": state}, tensors, "")
            aliases = _shared(tensors)
            written.append(_shard_name(rank()))
            kept = {name: tensor.contiguous() for name, tensor in tensors.items() if name not in aliases}
            save_file(kept, partial / written[0])
        if rank() == 0:
            content = {"state": encoded, "aliases": aliases, "shards": world_size() if sharded else 1}
            for name, part in (("state.json", content), ("random.json", generators)):
                (partial / name).write_text(json.dumps(part), encoding="utf-8")
                written.append(name)


def load_checkpoint(folder: Path, *, model: nn.Module, optimizer: Any = None) -> dict:
    """Put the weights into `model` and this rank's random numbers into place; returns the `state` that was saved.

    Another number of ranks than wrote it may read it: sharded tensors are cut anew, and random numbers begin anew.

    Args:
        model: unwrapped; a sharded one gets its own part of each weight.
        optimizer: of sharded parameters: its state in the result is sharded as they are.

    Raises:
        ValueError: the weights are of another model, or the checkpoint is damaged.
    """
    own = model.state_dict()
    mesh = next((value.device_mesh for value in own.values() if isinstance(value, DTensor)), None)
    try:
        content = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        generators = json.loads((folder / "random.json").read_text(encoding="utf-8"))
        reader = Reader(folder, content["shards"], content["aliases"], mesh)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ValueError(f"{folder} is damaged ({error}): delete it, and --resume takes the one before") from error
    encoded = dict(content["state"]["items"])
    named = {name: reader.shape(value) for name, value in encoded["model"]["items"]}
    if named != {name: list(value.shape) for name, value in own.items()}:
        raise ValueError(
            f"{folder} holds the weights of another model: resume with the flags and the data that the run began with"
        )
    model.load_state_dict(reader.decode(encoded["model"], own))
    state = reader.decode(encoded["state"], {"optimizer": sharded_like(optimizer)} if optimizer is not None else None)
    if len(generators) == world_size():
        set_rng_state(generators[rank()])
    return state


class _StateLike(dict):
    """For every name of a parameter's state, what a tensor of that state is sharded like."""

    def __init__(self, param: DTensor):
        super().__init__()
        self.param = param

    def get(self, key: Any, default: Any = None) -> Any:
        return self.param


def sharded_like(optimizer: Any) -> dict | None:
    """In the layout of the optimizer's state dict: its sharded parameters in the place of their state."""
    params = [param for group in optimizer.param_groups for param in group["params"]]
    return {"state": {i: _StateLike(param) for i, param in enumerate(params) if isinstance(param, DTensor)}}
