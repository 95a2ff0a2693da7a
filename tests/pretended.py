"""A pretended accelerator: tensors that say "pretended:0" and compute on the CPU, with a count of what a real one makes
slow.

- a wait: the CPU reads a number that the device computed, or copies to or from it without `non_blocking`;
- a launch: an operation that would start a kernel.

It registers a device with torch, so it is for processes of their own (`tests/waits.py`). CPU tensors of one dimension
or more in an operation of the device raise, as on a real one.
"""

from __future__ import annotations

import collections
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend


class _Module:
    """What `torch.pretended` offers."""

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def is_initialized() -> bool:
        return True

    @staticmethod
    def is_bf16_supported() -> bool:
        return True

    @staticmethod
    def device_count() -> int:
        return 1

    @staticmethod
    def current_device() -> int:
        return 0

    @staticmethod
    def get_rng_state(device: Any = None) -> Tensor:
        return torch.zeros(16, dtype=torch.uint8)

    @staticmethod
    def set_rng_state(state: Tensor, device: Any = None) -> None: ...

    @staticmethod
    def manual_seed_all(seed: int) -> None: ...

    @staticmethod
    def _is_in_bad_fork() -> bool:
        return False

    @staticmethod
    def get_amp_supported_dtype() -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


_setup_privateuseone_for_python_backend("pretended", backend_module=_Module())
DEVICE = torch.device("pretended:0")
ROOT = str(Path(__file__).parent.parent)

waits: collections.Counter[str] = collections.Counter()
launches: collections.Counter[str] = collections.Counter()

# no kernel: they look at the same memory, or allocate
_FREE = {"view", "_unsafe_view", "t", "transpose", "permute", "expand", "slice", "select", "unsqueeze", "squeeze"}
_FREE |= {
    "detach",
    "alias",
    "as_strided",
    "split",
    "unbind",
    "split_with_sizes",
    "_reshape_alias",
    "diagonal",
    "unfold",
}
_FREE |= {
    "empty",
    "empty_like",
    "new_empty",
    "empty_strided",
    "new_empty_strided",
    "lift_fresh",
    "set_",
    "_reshape_alias",
}
# their result's shape or value depends on numbers that are on the device
_READS = {"_local_scalar_dense", "nonzero", "masked_select", "unique_consecutive", "_unique2", "unique_dim", "equal"}
_READS |= {"is_nonzero", "bincount"}
_COPIES = {"_to_copy", "copy_"}


def place() -> str:
    """The innermost line of this project's that is being run."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(ROOT) and "/tests/pretended.py" not in name:
            return f"{name.removeprefix(ROOT + '/')}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"


class Pretended(Tensor):
    """`inner` is where the numbers are."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor):
        made = Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
        )
        made.inner = inner
        return made

    def __repr__(self) -> str:
        return f"Pretended({self.inner})"

    def tolist(self) -> Any:
        waits[f"tolist {place()}"] += 1
        return self.inner.tolist()

    def data_ptr(self) -> int:
        return self.inner.data_ptr()

    def __deepcopy__(self, memo):
        made = Pretended(self.inner.detach().clone()).requires_grad_(self.requires_grad)
        if getattr(self, "_is_param", False):
            made._is_param = True
        memo[id(self)] = made
        return made

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return compute(func, args, kwargs or {})


def _count(func: Any, name: str, args: tuple, kwargs: dict, on_device: bool, given: list[Pretended]) -> None:
    def is_mask(index: Any) -> bool:
        return isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)

    if name in _COPIES:
        source = args[1] if name == "copy_" else args[0]
        there = isinstance(args[0], Pretended) if name == "copy_" else on_device
        not_blocking = kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2])
        if isinstance(source, Pretended) and not there:
            waits[f"read {place()}"] += 1
        elif there and not isinstance(source, Pretended) and not not_blocking:
            waits[f"copy {place()}"] += 1
    elif given and name in _READS:
        waits[f"{name} {place()}"] += 1
    elif given and name in ("index", "_unsafe_index") and any(map(is_mask, args[1])):
        waits[f"index by a mask {place()}"] += 1
    elif given and "index_put" in name and any(map(is_mask, args[1])) and args[2].dim() > 0:
        waits[f"index_put by a mask {place()}"] += 1
    elif given and name == "repeat_interleave" and kwargs.get("output_size") is None and "Tensor" in func._overloadname:
        waits[f"repeat_interleave {place()}"] += 1
    if on_device and name not in _FREE:
        launches[name] += 1 + len(args[0]) // 110 if name.startswith("_foreach") else 1


def compute(func: Any, args: tuple, kwargs: dict) -> Any:
    flat, _ = tree_flatten((args, kwargs))
    given = [value for value in flat if isinstance(value, Pretended)]
    strangers = [value for value in flat if isinstance(value, Tensor) and not isinstance(value, Pretended)]
    name = func._schema.name.split("::")[-1]
    if func is torch.ops.prim.device.default:
        return DEVICE
    wanted = kwargs.get("device")
    on_device = bool(given) if wanted is None else torch.device(wanted).type == DEVICE.type
    is_index = "index" in name
    if given and name not in _COPIES and not name.startswith("_foreach") and any(one.dim() for one in strangers):
        if not (is_index and isinstance(args[0], Pretended)):
            shapes = [tuple(one.shape) for one in strangers]
            raise RuntimeError(f"{name} got tensors {shapes} of the CPU beside some of {DEVICE}, at {place()}")
        waits[f"index from the CPU {place()}"] += 1
    _count(func, name, args, kwargs, on_device, given)

    def inner(value: Any) -> Any:
        if isinstance(value, torch.device):
            return torch.device("cpu")
        return value.inner if isinstance(value, Pretended) else value

    args_inside, kwargs_inside = tree_map(inner, args), tree_map(inner, kwargs)
    if kwargs_inside.get("device") is not None:
        kwargs_inside["device"] = torch.device("cpu")
    if "pin_memory" in kwargs_inside:
        kwargs_inside["pin_memory"] = None
    if name == "_to_copy" and wanted is not None and bool(given) != on_device:
        result = func(*args_inside, **kwargs_inside)  # the numbers stay where they are, as a copy
        return Pretended(result) if on_device else result
    result = func(*args_inside, **kwargs_inside)
    if not on_device or name == "_local_scalar_dense":
        return result
    if func._schema.is_mutable:
        if name.startswith("_foreach"):
            return result
        if "out" in kwargs:
            return kwargs["out"]
        if name.endswith("_") and isinstance(args[0], Pretended):
            return args[0]
    return tree_map(lambda value: Pretended(value) if isinstance(value, Tensor) else value, result)


class OnDevice(TorchDispatchMode):
    """Factory functions with `device="pretended"`, and copies there, make `Pretended`."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return compute(func, args, kwargs or {})

    def __enter__(self):
        self.before = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(device=...) makes its numbers on the CPU first
        return super().__enter__()

    def __exit__(self, *caught):
        torch._C._set_only_lift_cpu_tensors(self.before)
        return super().__exit__(*caught)
