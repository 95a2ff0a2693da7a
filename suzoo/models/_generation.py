"""Prompts made ready for `generate()`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedConfig

PER_TOKEN = ("input_ids", "token_type_ids", "position_ids", "attention_mask")


def take_prompt(inputs: Tensor | None, kwargs: dict[str, Any]) -> None:
    """`generate()` takes the prompt as its first argument or by name; afterwards it is in `kwargs`, by name."""
    if inputs is None:
        return
    if kwargs.get("input_ids") is not None:
        raise ValueError("give generate() the prompt once, as inputs or as input_ids")
    kwargs["input_ids"] = inputs


def setting(name: str, kwargs: dict[str, Any], *configs: GenerationConfig | None) -> Any:
    """A generation parameter as `generate()` resolves it: by name, then by the given config, then by the model's."""
    if name in kwargs:
        return kwargs[name]
    values = [getattr(config, name) for config in configs if config is not None]
    return next((value for value in values if value is not None), None)


def left_pad_prompt(kwargs: dict[str, Any], pad_token_id: int | None, num_past: int) -> None:
    """Move the padding of a batch of prompts to the left, in place, in everything that has one entry per token.

    `generate()` continues after the last slot, so a prompt with padding there would be continued from padding. Without
    `attention_mask`, padding is where `input_ids` are the padding id, as transformers guesses too. On top of a cache
    nothing can move.
    """
    input_ids = kwargs.get("input_ids")
    if input_ids is None or num_past:
        return
    if kwargs.get("attention_mask") is None:
        if pad_token_id is None or not (input_ids == pad_token_id).any():
            return
        kwargs["attention_mask"] = (input_ids != pad_token_id).long()
    mask = kwargs["attention_mask"]
    if mask.dim() != 2 or bool(mask[:, -1].all()):
        return
    order = mask.long().argsort(dim=-1, stable=True)
    for name in PER_TOKEN:
        if kwargs.get(name) is not None:
            kwargs[name] = kwargs[name].expand_as(order).gather(-1, order)


def prompt_length_must_fit(kwargs: dict[str, Any], max_new_tokens: int | None, config: PreTrainedConfig) -> None:
    """Raise before the first token where absolute positions would run out before the last one."""
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
