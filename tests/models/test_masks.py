"""The four masks: truth tables, padding, caches, and the format of each attention implementation."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache, StaticCache

from suzoo.models import UniLMConfig, _masks
from suzoo.models._masks import causal_mask, off_diagonal_mask, prefix_mask
from tests.models.tiny import SIZES

TABLES = {
    "causal": "10000 11000 11100 11110 11111",
    "prefix": "11100 11100 11100 11110 11111",  # three source tokens, two target tokens
    "off-diagonal": "01111 10111 11011 11101 11110",
}
TYPES = torch.tensor([[0, 0, 0, 1, 1]])


def config(implementation: str = "sdpa") -> UniLMConfig:
    made = UniLMConfig(**SIZES)
    made._attn_implementation = implementation
    return made


def table(rule: str) -> torch.Tensor:
    return torch.tensor([[c == "1" for c in row] for row in TABLES[rule].split()])


def build(rule: str, implementation: str = "sdpa", attention_mask=None, batch: int = 1):
    embeds = torch.empty(batch, 5, 0)
    arguments = (config(implementation), embeds, attention_mask)
    if rule == "prefix":
        return prefix_mask(*arguments, is_source=TYPES.expand(batch, -1) == 0)
    return {"causal": causal_mask, "off-diagonal": off_diagonal_mask}[rule](*arguments)


@pytest.mark.parametrize("rule", TABLES)
def test_truth_table(rule):
    mask = build(rule, "eager")
    assert set(mask.unique().tolist()) <= {0.0, torch.finfo(mask.dtype).min}
    assert torch.equal(mask[0, 0] == 0, table(rule))
    sdpa = build(rule, "sdpa")
    if sdpa is None:  # sdpa's is_causal makes it
        assert rule == "causal"
    else:
        assert sdpa.dtype == torch.bool
        assert torch.equal(sdpa[0, 0], table(rule))


@pytest.mark.parametrize("rule", TABLES)
@pytest.mark.parametrize("padding", [[1, 1, 1, 0, 0], [0, 0, 1, 1, 1], [0, 0, 0, 0, 0]])
def test_nobody_sees_padding(rule, padding):
    keep = torch.tensor([[1] * 5, padding])
    mask = build(rule, attention_mask=keep, batch=2)
    for row in range(2):
        assert torch.equal(mask[row, 0], table(rule) & keep[row].bool())


@pytest.mark.parametrize("static", [False, True])
def test_prefix_mask_on_top_of_a_cache_is_causal(static):
    made = config()
    cache = StaticCache(config=made, max_cache_len=8) if static else DynamicCache(config=made)
    cache.update(torch.zeros(1, 4, 3, 8), torch.zeros(1, 4, 3, 8), 0)
    new = torch.empty(1, 2, 0)
    mask = prefix_mask(made, new, torch.ones(1, 5), torch.zeros(1, 2, dtype=torch.bool), cache)
    assert torch.equal(mask[0, 0, :, :5], table("causal")[3:])
    assert not mask[..., 5:].any()


def test_static_cache_prefill_sees_the_source_and_no_empty_slot():
    made = config()
    cache = StaticCache(config=made, max_cache_len=8)
    mask = prefix_mask(made, torch.empty(1, 5, 0), None, TYPES == 0, cache)
    assert torch.equal(mask[0, 0, :, :5], table("prefix"))
    assert not mask[..., 5:].any()


def test_a_finished_mask_is_returned_untouched():
    mask = torch.ones(1, 1, 5, 5, dtype=torch.bool)
    for rule in TABLES:
        assert build(rule, attention_mask=mask) is mask


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_before_transformers_knew_blocks_the_prefix_mask_is_the_same(implementation, monkeypatch):
    """For padding, caches, and documents packed into a row."""
    made, types = config(implementation), torch.tensor([[0, 0, 1, 1, 0, 0, 0, 1]] * 2)
    embeds, positions = torch.empty(2, 8, 0), torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3]])
    keep = torch.tensor([[1] * 8, [0, 0, 0, 1, 1, 1, 1, 1]])
    cases = [
        {
            "attention_mask": None,
            "is_source": types == 0,
            "position_ids": positions,
            "documents": positions.diff(prepend=positions[:, :1]).lt(0).cumsum(-1),
        },
        {"attention_mask": keep, "is_source": TYPES[:, [0, 1, 2, 2, 2, 2, 3, 4]].expand(2, -1) == 0},
        {"attention_mask": None, "is_source": types == 0, "cache": StaticCache(config=made, max_cache_len=9)},
    ]
    masks = []
    for blocks in (True, False):
        monkeypatch.setattr(_masks, "MASKS_TAKE_BLOCKS", blocks and _masks.MASKS_TAKE_BLOCKS)
        masks.append([prefix_mask(made, embeds, **case) for case in cases])
    for with_blocks, without in zip(*masks, strict=True):
        assert torch.equal(with_blocks.expand(*without.shape), without)
