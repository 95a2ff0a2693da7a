"""Prompts made ready for `generate()`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedConfig

PER_TOKEN = ("input_ids", "token_type_ids", "position_ids", "attention_mask")


def left_pad_prompt(kwargs: dict[str, Any], generation_config: GenerationConfig, num_past: int) -> None:
    """Move the padding of a batch of prompts to the left, in place, in everything that has one entry per token.

    `generate()` continues after the last slot, so a prompt with padding there would be continued from padding. Without
    `attention_mask`, padding is where `input_ids` are the padding id, as transformers guesses too. On top of a cache
    nothing can move.
    """
    input_ids = kwargs.get("input_ids")
    if input_ids is None or num_past:
        return
    if kwargs.get("attention_mask") is None:
        pad = kwargs.get("pad_token_id", generation_config.pad_token_id)
        if pad is None or not (input_ids == pad).any():
            return
        kwargs["attention_mask"] = (input_ids != pad).long()
    mask = kwargs["attention_mask"]
    if mask.dim() != 2 or bool(mask[:, -1].all()):
        return
    order = mask.long().argsort(dim=-1, stable=True)
    for name in PER_TOKEN:
        if kwargs.get(name) is not None:
            kwargs[name] = kwargs[name].expand_as(order).gather(-1, order)


def prompt_length_must_fit(
    kwargs: dict[str, Any], generation_config: GenerationConfig, config: PreTrainedConfig
) -> None:
    """Raise before the first token where absolute positions would run out before the last one."""
    max_new_tokens = kwargs.get("max_new_tokens", generation_config.max_new_tokens)
    input_ids = kwargs.get("input_ids")
    if config.position_embedding_type != "absolute" or max_new_tokens is None or input_ids is None:
        return
    mask: Tensor = kwargs["attention_mask"] if kwargs.get("attention_mask") is not None else torch.ones_like(input_ids)
    longest = int(mask.sum(-1).max())
    # the last new token is never fed back, so it needs no position
    if longest + max_new_tokens - 1 > config.max_position_embeddings:
        raise ValueError(
            f"{longest} prompt tokens and {max_new_tokens} new ones do not fit in {config.max_position_embeddings} "
            "absolute positions: truncate the prompt or lower max_new_tokens"
        )
