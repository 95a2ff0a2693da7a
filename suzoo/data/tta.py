"""Examples and batches for T-TA: whole sentences, every token its own label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from suzoo.data._padding import pad_right
from suzoo.data.tokens import pieces


class SentenceExample(TypedDict):
    """One tokenized sentence with its special tokens. Lists of equal length."""

    input_ids: list[int]
    special_tokens_mask: list[int]


def encode_sentence(
    tokenizer: PreTrainedTokenizerBase, text: str, *, max_tokens: int, generator: torch.Generator | None = None
) -> SentenceExample:
    """`[CLS] text [SEP]`. A text that is too long loses tokens at its front or its end, as the authors do.

    Args:
        tokenizer: special tokens in the text are plain text.
        text: one sentence.
        max_tokens: special tokens included, at least 3.
        generator: decides by a coin which side is cut; without one it is the end.
    """
    _check_room(max_tokens)
    (ids,) = pieces(tokenizer, [text])
    is_cut = len(ids) > max_tokens - 2
    from_front = is_cut and generator is not None and bool(torch.rand((), generator=generator) < 0.5)
    return _sentence(tokenizer, ids, max_tokens - 2, from_front)


def encode_sentences(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], first: int, *, max_tokens: int, seed: int
) -> dict[str, list[list[int]]]:
    """`encode_sentence` of many, name -> lists. The side that is cut is a function of `seed` and the row's number.

    Args:
        first: number of the first text.
    """
    _check_room(max_tokens)
    room = max_tokens - 2
    found = []
    for row, ids in enumerate(pieces(tokenizer, texts), start=first):
        from_front = len(ids) > room and np.random.default_rng([seed, row]).random() < 0.5
        found.append(_sentence(tokenizer, ids, room, from_front))
    return {name: [example[name] for example in found] for name in ("input_ids", "special_tokens_mask")}


def _check_room(max_tokens: int) -> None:
    if max_tokens < 3:
        raise ValueError(f"max_tokens {max_tokens} leaves no room between [CLS] and [SEP]")


def _sentence(tokenizer: PreTrainedTokenizerBase, ids: list[int], room: int, from_front: bool) -> SentenceExample:
    ids = ids[-room:] if from_front else ids[:room]
    return {
        "input_ids": [tokenizer.cls_token_id, *ids, tokenizer.sep_token_id],
        "special_tokens_mask": [1, *[0] * len(ids), 1],
    }


def tta_batch(
    examples: Sequence[SentenceExample], *, pad_token_id: int = 0, learn_special_tokens: bool = True
) -> dict[str, Tensor]:
    """(B, L) `input_ids`, `attention_mask` and `labels`, padded on the right; nothing is masked.

    Args:
        examples: of similar length (`suzoo.models._batching`), to have little padding.
        learn_special_tokens: [CLS] and [SEP] are labels too, as in the authors' code.
    """
    batch = pad_right(examples, {"input_ids": pad_token_id, "special_tokens_mask": 1})
    special = batch.pop("special_tokens_mask").bool()
    ignored = batch["attention_mask"] == 0 if learn_special_tokens else special
    batch["labels"] = batch["input_ids"].masked_fill(ignored, -100)
    return batch
