"""A cache of keys and values with room for the tokens to come.

transformers' dynamic cache copies all that it holds for every new token, in every layer. Here a reply is written into
memory that is already there, and what is read is a view of it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer

LEAST_ROOM = 64  # tokens


class RoomyLayer(DynamicLayer):
    """transformers' layer, whose `keys` and `values` are the beginning of larger tensors where that is possible.

    What cuts, reorders or repeats them works as it is: what is no beginning any more is copied at the next token.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rooms: tuple[Tensor | None, Tensor | None] = None, None

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        if torch.is_grad_enabled() or torch.compiler.is_compiling():  # a graph may need what was there before
            return super().update(key_states, value_states, *args, **kwargs)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        keys, values = (
            _room_behind(past, room, new)
            for past, room, new in zip((self.keys, self.values), self.rooms, (key_states, value_states), strict=True)
        )
        total = self.get_seq_length() + key_states.shape[-2]
        self.rooms = keys, values
        self.keys, self.values = keys[..., :total, :], values[..., :total, :]
        return self.keys, self.values

    def reset(self) -> None:
        super().reset()
        self.rooms = None, None


def _room_behind(past: Tensor, room: Tensor | None, new: Tensor) -> Tensor:
    """(B, H, more, K) that begins with `past` (empty at first) and `new`, in memory of its own."""
    length = past.shape[-2] if past.numel() else 0
    total = length + new.shape[-2]
    is_beginning = (
        room is not None
        and total <= room.shape[-2]
        and (length == 0 or (past.data_ptr() == room.data_ptr() and past.stride() == room.stride()))
        and (room.shape[:2], room.dtype, room.device) == (new.shape[:2], new.dtype, new.device)
    )
    if not is_beginning:
        more = total + max(LEAST_ROOM, total // 2)
        room = new.new_empty(*new.shape[:2], more, new.shape[-1])
        if length:
            room[..., :length, :] = past
    assert room is not None
    room[..., length:total, :] = new
    return room


def give_room(cache: Cache, layer_idx: int) -> None:
    """Put a `RoomyLayer` into the place of transformers' dynamic layer, while that is empty."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or getattr(cache, "offloading", False):
        return
    if getattr(cache, "layer_class_to_replicate", None) is DynamicLayer:  # of layers that are made when they are needed
        cache.layer_class_to_replicate = RoomyLayer
    if layer_idx < len(cache.layers):
        layer = cache.layers[layer_idx]
        if type(layer) is DynamicLayer and not layer.is_initialized:
            cache.layers[layer_idx] = RoomyLayer()
