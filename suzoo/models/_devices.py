"""What an accelerator wants otherwise than a CPU: copies without a wait, random states, a choice of kernels.

A copy from pageable memory makes the CPU wait until the accelerator has done all that was asked of it before. From
pinned memory it does not, and torch keeps that memory until the copy is done.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """`tensor.to(device)` without waiting, if it comes from the CPU."""
    device = torch.device(device)
    if tensor.device.type != "cpu" or device.type == "cpu":
        return tensor.to(device)
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def batch_to_device(batch: Mapping[str, Tensor], device: torch.device | str) -> dict[str, Tensor]:
    """`to_device` of every tensor."""
    return {name: to_device(values, device) for name, values in batch.items()}


def all_to_device(arrays: Sequence[np.ndarray], device: torch.device) -> list[Tensor]:
    """Whole numbers as int64 tensors on `device`, in one copy."""
    flat = to_device(torch.from_numpy(np.concatenate([array.ravel() for array in arrays]).astype(np.int64)), device)
    parts = flat.split([array.size for array in arrays])
    return [part.view(array.shape) for part, array in zip(parts, arrays, strict=True)]


def random_states(device: torch.device) -> tuple[Tensor, Tensor | None]:
    """States of the generators that a pass on `device` draws from: the CPU's, and its own."""
    if device.type == "cpu":
        return torch.get_rng_state(), None
    module: Any = torch.get_device_module(device)
    return torch.get_rng_state(), module.get_rng_state() if device.type == "mps" else module.get_rng_state(device)


def set_random_states(states: tuple[Tensor, Tensor | None], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    if states[1] is not None:
        module: Any = torch.get_device_module(device)
        module.set_rng_state(states[1]) if device.type == "mps" else module.set_rng_state(states[1], device)


def seed_generator(device: torch.device, seed: int) -> None:
    """Seed the generator of one device, which may not be the current one."""
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
        return
    module: Any = torch.get_device_module(device)
    generators = getattr(module, "default_generators", None)
    if generators:
        generators[device.index].manual_seed(seed)
    else:  # MPS has one
        module.manual_seed(seed)


@contextmanager
def replayed(device: torch.device) -> Generator[None]:
    """The random state is put back at the end, so that the next pass draws the same dropout."""
    states = random_states(device)
    try:
        yield
    finally:
        set_random_states(states, device)


def attention_kernels(device: torch.device) -> Any:
    """Inside, torch's attention takes any kernel but cuDNN's, which plans anew for every shape, as each batch has
    one of its own; its backward with a mask gave NaN at some lengths."""
    if device.type != "cuda":
        return nullcontext()
    return sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])
