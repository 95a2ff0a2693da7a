"""Examples and batches for T-TA: whole sentences, every token its own label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from suzoo.data._padding import pad_right


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
    if max_tokens < 3:
        raise ValueError(f"max_tokens {max_tokens} leaves no room between [CLS] and [SEP]")
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    room = max_tokens - 2
    if len(ids) > room:
        from_front = generator is not None and bool(torch.rand((), generator=generator) < 0.5)
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
