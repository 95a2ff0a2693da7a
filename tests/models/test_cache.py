"""A cache with room for the tokens to come holds what transformers' own holds, and does not copy it at every token."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from suzoo.models import _attention
from suzoo.models._cache import LEAST_ROOM, RoomyLayer
from suzoo.models._versions import CACHE
from tests.models.tiny import tiny


def states(num_tokens: int, batch_size: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(batch_size, 3, num_tokens, 4), torch.randn(batch_size, 3, num_tokens, 4)


EDITS = {
    "crop": lambda layer: layer.crop(-2),
    "crop all": lambda layer: layer.crop(-5),
    "reorder": lambda layer: layer.reorder_cache(torch.tensor([1, 1])),
    "repeat": lambda layer: layer.batch_repeat_interleave(2),
    "select": lambda layer: layer.batch_select_indices(torch.tensor([1])),
    "reset": lambda layer: layer.reset(),
}


@pytest.mark.parametrize("edit", EDITS)
@torch.no_grad()
def test_a_layer_holds_what_that_of_transformers_holds(edit):
    torch.manual_seed(0)
    ours, theirs = RoomyLayer(), DynamicLayer()
    first, second = states(4), states(1)
    for layer in (ours, theirs):
        layer.update(*first)
        layer.update(*second)
        EDITS[edit](layer)
    assert ours.get_seq_length() == theirs.get_seq_length()
    batch_size = {"repeat": 4, "select": 1}.get(edit, 2)
    for more in (states(1, batch_size), states(LEAST_ROOM, batch_size), states(3, batch_size)):
        for one, other in zip(ours.update(*more), theirs.update(*more), strict=True):
            assert torch.equal(one, other)
        assert ours.get_mask_sizes(1) == theirs.get_mask_sizes(1)


@torch.no_grad()
def test_a_copy_of_a_layer_goes_its_own_way():
    torch.manual_seed(0)
    layer = RoomyLayer()
    layer.update(*states(4))
    twin = copy.deepcopy(layer)
    new, other = states(1), states(1)
    keys, _ = layer.update(*new)
    twin.update(*other)
    assert torch.equal(keys[:, :, 4:], new[0]) and torch.equal(twin.keys[:, :, 4:], other[0])


def test_a_gradient_through_the_cache_is_that_of_concatenation():
    layer = RoomyLayer()
    first, second = states(4), states(1)
    first[0].requires_grad_()
    layer.update(*first)
    keys, _ = layer.update(*second)
    keys.sum().backward()
    assert torch.equal(first[0].grad, torch.ones_like(first[0]))


@pytest.mark.parametrize("family", ["unilm", "dialogpt"])
@pytest.mark.parametrize("given", [False, True])
def test_a_reply_is_written_into_one_memory(family, given, monkeypatch):
    model = tiny(family, position_embedding_type="rope")
    prompt = torch.tensor([[2, 7, 8, 9, 3], [2, 9, 9, 8, 3]])
    options = {"max_new_tokens": 30, "min_new_tokens": 30, "do_sample": False, "return_dict_in_generate": True}
    rooms = set()
    room_behind = RoomyLayer.update

    def update(self, *args, **kwargs):
        result = room_behind(self, *args, **kwargs)
        rooms.add((self.keys.data_ptr(), self.values.data_ptr()))
        return result

    monkeypatch.setattr(RoomyLayer, "update", update)
    cache = {CACHE: DynamicCache()} if given else {}
    output = model.generate(prompt, **options, **cache)
    assert len(rooms) == len(output[CACHE].layers) == model.config.num_hidden_layers
    monkeypatch.setattr(_attention, "give_room", lambda cache, layer_idx: None)
    plain = model.generate(prompt, **options)
    assert all(type(layer) is DynamicLayer for layer in plain[CACHE].layers)
    assert torch.equal(output.sequences, plain.sequences)
    for one, other in zip(output[CACHE].layers, plain[CACHE].layers, strict=True):
        torch.testing.assert_close(one.keys, other.keys, rtol=0, atol=1e-6)
    beams = {"num_beams": 3, "max_new_tokens": 8, "do_sample": False}
    expected = model.generate(prompt, **beams)
    monkeypatch.undo()
    assert torch.equal(model.generate(prompt, **beams), expected)
