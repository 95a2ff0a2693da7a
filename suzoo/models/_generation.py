"""Prompts made ready for `generate()`."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from transformers import (
    Cache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    NoRepeatNGramLogitsProcessor,
    PreTrainedConfig,
    RepetitionPenaltyLogitsProcessor,
)

from ._position_kinds import POSITIONS
from ._versions import CACHE

# slots of the prompt in the innermost `generate()` of this thread
_PROMPT_SLOTS: ContextVar[int | None] = ContextVar("prompt_slots", default=None)
PER_TOKEN = ("input_ids", "inputs_embeds", "token_type_ids", "position_ids", "attention_mask")


def take_prompt(inputs: Tensor | None, kwargs: dict[str, Any], bos_token_id: int | None, device: torch.device) -> None:
    """`generate()` takes the prompt as its first argument or by name; afterwards it is in `kwargs`, by name. Without a
    prompt, and without embeddings, generation starts from `bos_token_id` alone."""
    if inputs is not None:
        if kwargs.get("input_ids") is not None:
            raise ValueError("give generate() the prompt once, as inputs or as input_ids")
        kwargs["input_ids"] = inputs
    elif bos_token_id is not None and kwargs.get("input_ids") is None and kwargs.get("inputs_embeds") is None:
        kwargs["input_ids"] = torch.full((1, 1), bos_token_id, device=device)


@contextmanager
def prompt_of(num_slots: int) -> Generator[None]:
    """Inside, `num_prompt_slots()` says how long the prompt was. No argument of `generate()` could: those also go to
    assistant models of other classes."""
    token = _PROMPT_SLOTS.set(num_slots)
    try:
        yield
    finally:
        _PROMPT_SLOTS.reset(token)


def num_prompt_slots() -> int | None:
    """Slots before the first generated token; None outside of `generate()`."""
    return _PROMPT_SLOTS.get()


def setting(name: str, kwargs: dict[str, Any], *configs: GenerationConfig | None) -> Any:
    """A generation parameter as `generate()` resolves it: by name, then by the given config, then by the model's."""
    if name in kwargs:
        return kwargs[name]
    values = [getattr(config, name) for config in configs if config is not None]
    return next((value for value in values if value is not None), None)


def left_pad_prompt(
    kwargs: dict[str, Any], num_past: int, *configs: GenerationConfig | None
) -> tuple[Tensor, Tensor] | None:
    """Move the padding of a batch of prompts to the left, in place, in everything that has one entry per token.

    `generate()` continues after the last slot, so a prompt with padding there would be continued from padding. Without
    `attention_mask`, padding is where `input_ids` are the padding id, unless that also ends texts, as transformers
    guesses too. On top of a cache nothing can move, but where `remember_move` says that its prompt was moved, the mask
    of that prompt follows. An assistant model moves nothing: the model that it assists reads what it returns.

    Args:
        configs: where the padding and the end id are looked up after `kwargs`, see `setting`.

    Returns:
        The mask (B, L) as given and as moved, or None where nothing moved.
    """
    if setting("is_assistant", kwargs, *configs):
        return None
    if num_past:
        _follow_move(kwargs)
        return None
    input_ids = kwargs.get("input_ids")
    if kwargs.get("attention_mask") is None:
        pad_token_id = setting("pad_token_id", kwargs, *configs)
        ends = setting("eos_token_id", kwargs, *configs)
        ends = ends.flatten().tolist() if isinstance(ends, Tensor) else ends if isinstance(ends, list) else [ends]
        if input_ids is None or pad_token_id is None or pad_token_id in ends:
            return None
        if not (input_ids == pad_token_id).any():
            return None
        kwargs["attention_mask"] = (input_ids != pad_token_id).long()
    mask = kwargs["attention_mask"]
    if mask.dim() != 2 or bool(mask[:, -1].all()):
        return None
    order = mask.long().argsort(dim=-1, stable=True)
    for name in PER_TOKEN:
        entries = kwargs.get(name)
        if entries is not None:
            kwargs[name] = entries.expand(len(order), *entries.shape[1:]).take_along_dim(
                order.view(*order.shape, *[1] * (entries.dim() - 2)), dim=1
            )
    return mask, kwargs["attention_mask"]


def remember_move(output: Any, cache: Cache | None, move: tuple[Tensor, Tensor] | None) -> None:
    """Note on the cache, the given one or that of `output`, what `left_pad_prompt` did to the prompt it now holds."""
    if cache is None:
        cache = getattr(output, CACHE, None)
    if cache is not None:
        # on the cache itself, so that copies of it keep the note
        cache.moved_prompt = move  # ty: ignore[invalid-assignment]


def _follow_move(kwargs: dict[str, Any]) -> None:
    mask, move = kwargs.get("attention_mask"), getattr(kwargs[CACHE], "moved_prompt", None)
    if mask is None or mask.dim() != 2 or move is None:
        return
    # several sequences per prompt share its mask
    given, moved = (prompt_mask.repeat_interleave(len(mask) // len(prompt_mask), dim=0) for prompt_mask in move)
    num_slots = given.shape[1]
    if torch.equal(mask[:, :num_slots], given.to(mask.dtype)):
        kwargs["attention_mask"] = torch.cat([moved.to(mask.dtype), mask[:, num_slots:]], dim=1)


class TargetOnly(LogitsProcessor):
    """A rule that sees the tokens from slot `start` on: what the source says may be said again."""

    def __init__(self, rule: LogitsProcessor, start: int) -> None:
        self.rule, self.start = rule, start

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return self.rule(input_ids[:, self.start :], scores)


def rules_count_the_target(kwargs: dict[str, Any], start: int, *configs: GenerationConfig | None) -> None:
    """Make `no_repeat_ngram_size`, `repetition_penalty` and `min_length` look at what is generated, from slot `start`
    on. transformers counts the prompt, too, which is right where prompt and reply are one text."""
    rules: list[LogitsProcessor] = []
    if ngram_size := setting("no_repeat_ngram_size", kwargs, *configs):
        rules.append(NoRepeatNGramLogitsProcessor(ngram_size))
        kwargs["no_repeat_ngram_size"] = 0
    penalty = setting("repetition_penalty", kwargs, *configs)
    if penalty not in (None, 1.0):
        rules.append(RepetitionPenaltyLogitsProcessor(penalty))
        kwargs["repetition_penalty"] = 1.0
    if min_length := setting("min_length", kwargs, *configs):
        kwargs["min_new_tokens"] = max(min_length, setting("min_new_tokens", kwargs, *configs) or 0)
        kwargs["min_length"] = 0
    if rules:
        given = kwargs.get("logits_processor") or []
        kwargs["logits_processor"] = LogitsProcessorList([*given, *(TargetOnly(rule, start) for rule in rules)])


def prompt_length_must_fit(kwargs: dict[str, Any], max_new_tokens: int | None, config: PreTrainedConfig) -> None:
    """Raise before the first token where absolute positions would run out before the last one."""
    prompt = kwargs["input_ids"] if kwargs.get("input_ids") is not None else kwargs.get("inputs_embeds")
    if not POSITIONS[config.position_embedding_type].limited or max_new_tokens is None or prompt is None:
        return
    mask = kwargs.get("attention_mask")
    longest = prompt.shape[1] if mask is None else int(mask.sum(-1).max())
    # the last new token is never fed back, so it needs no position
    if longest + max_new_tokens - 1 > config.max_position_embeddings:
        raise ValueError(
            f"{longest} prompt tokens and {max_new_tokens} new ones do not fit in {config.max_position_embeddings} "
            "absolute positions: truncate the prompt or lower max_new_tokens"
        )
