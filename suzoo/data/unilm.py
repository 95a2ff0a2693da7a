"""Examples and batches for UniLM: source and target in one sequence, labels on the target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from suzoo.data._padding import pad_right
from suzoo.data.tokens import pieces


class Seq2SeqExample(TypedDict):
    """One tokenized pair. Lists of equal length; labels are -100 on the source."""

    input_ids: list[int]
    token_type_ids: list[int]
    labels: list[int]


def encode_source_target(
    tokenizer: PreTrainedTokenizerBase,
    source: str,
    target: str | None = None,
    *,
    max_source_tokens: int,
    max_target_tokens: int,
) -> Seq2SeqExample:
    """`[CLS] source [SEP] target [SEP]` with types 0 and 1, and labels on the target and its [SEP] (kexue.fm 6933).

    Each side has a budget of its own, special tokens included, and is cut at its end: a long source never costs target.

    Args:
        tokenizer: with [CLS] and [SEP].
        source, target: texts; without a target, the prompt for `generate`. Special tokens in them are plain text.
        max_source_tokens: of `[CLS] source [SEP]`, at least 3.
        max_target_tokens: of `target [SEP]`, at least 2.
    """
    _check_room(max_source_tokens, max_target_tokens)
    ids = pieces(tokenizer, [source] if target is None else [source, target])
    return seq2seq_example(tokenizer, ids[0], None if target is None else ids[1], max_source_tokens, max_target_tokens)


def encode_sources_targets(
    tokenizer: PreTrainedTokenizerBase,
    sources: Sequence[str],
    targets: Sequence[str],
    *,
    max_source_tokens: int,
    max_target_tokens: int,
) -> dict[str, list[list[int]]]:
    """`encode_source_target` of many, name -> lists."""
    _check_room(max_source_tokens, max_target_tokens)
    pairs = zip(pieces(tokenizer, sources), pieces(tokenizer, targets), strict=True)
    found = [seq2seq_example(tokenizer, *pair, max_source_tokens, max_target_tokens) for pair in pairs]
    return {name: [example[name] for example in found] for name in ("input_ids", "token_type_ids", "labels")}


def _check_room(max_source_tokens: int, max_target_tokens: int) -> None:
    if max_source_tokens < 3 or max_target_tokens < 2:
        raise ValueError(
            f"max_source_tokens {max_source_tokens} and max_target_tokens {max_target_tokens} must be at least 3 and 2"
        )


def seq2seq_example(
    tokenizer: PreTrainedTokenizerBase,
    source: list[int],
    target: list[int] | None,
    max_source_tokens: int,
    max_target_tokens: int,
) -> Seq2SeqExample:
    """`encode_source_target` of tokens without special ones around them."""
    source_ids = [tokenizer.cls_token_id, *source[: max_source_tokens - 2], tokenizer.sep_token_id]
    target_ids = [] if target is None else [*target[: max_target_tokens - 1], tokenizer.sep_token_id]
    return {
        "input_ids": source_ids + target_ids,
        "token_type_ids": [0] * len(source_ids) + [1] * len(target_ids),
        "labels": [-100] * len(source_ids) + target_ids,
    }


def unilm_batch(examples: Sequence[Seq2SeqExample], *, pad_token_id: int = 0) -> dict[str, Tensor]:
    """(B, L) `input_ids`, `attention_mask`, `token_type_ids` and `labels` (-100 on padding), padded on the right.

    A collate function; batch examples of similar length (`suzoo.models._batching`) to have little padding.
    """
    fills = {"input_ids": pad_token_id, "token_type_ids": 0, "labels": -100}
    return pad_right(examples, fills)
