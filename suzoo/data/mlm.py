"""Batches for a masked language model: BERT's masking, drawn anew for every batch, of tokens or of whole words.

Source: Devlin et al. (2018); whole words: Cui et al., "Pre-Training with Whole Word Masking for Chinese BERT" (2019).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypedDict

import numpy as np
import torch
from torch import Tensor

from suzoo.data._errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class WordExample(TypedDict):
    """One tokenized text. Lists of equal length; tokens of one word have one number, special tokens have -1."""

    input_ids: list[int]
    word_ids: list[int]


def segment_chinese(text: str) -> list[str]:
    """Words of a Chinese text by jieba, white space left out.

    Raises:
        DataError: jieba is not installed.
    """
    try:
        import jieba
    except ImportError as error:
        raise DataError(
            "word boundaries need jieba (pip install jieba), or a column of words divided by blanks"
        ) from error
    jieba.setLogLevel("ERROR")
    return [word for word in jieba.cut(text) if word.strip()]


def encode_words(tokenizer: PreTrainedTokenizerBase, words: Sequence[str], *, max_tokens: int) -> WordExample:
    """`[CLS] words [SEP]` with the number of the word that each token belongs to.

    Args:
        tokenizer: a fast one; its [CLS] and [SEP] are put around.
        words: `segment_chinese(text)`, `text.split()`, or `list(text)` for masking single characters.
        max_tokens: what is longer is cut at its end, special tokens included.

    Raises:
        ValueError: no word, or no room for one.
    """
    columns = encode_word_lists(tokenizer, [words], max_tokens=max_tokens)
    return {"input_ids": columns["input_ids"][0], "word_ids": columns["word_ids"][0]}


def encode_word_lists(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[Sequence[str]], *, max_tokens: int
) -> dict[str, list[list[int]]]:
    """`encode_words` of many, name -> lists."""
    for words in texts:
        if not words or max_tokens < 3:
            raise ValueError(f"there is nothing to mask in {len(words)} words cut to {max_tokens} tokens")
    encoded = tokenizer(
        [list(words) for words in texts],
        is_split_into_words=True,
        truncation=True,
        max_length=max_tokens,
        return_attention_mask=False,
        return_token_type_ids=False,
    )
    word_ids = [[-1 if word is None else word for word in encoded.word_ids(row)] for row in range(len(texts))]
    return {"input_ids": encoded["input_ids"], "word_ids": word_ids}


def masked_batch(
    examples: Sequence[WordExample],
    *,
    tokenizer: PreTrainedTokenizerBase,
    generator: torch.Generator,
    probability: float = 0.15,
    whole_words: bool = True,
) -> dict[str, Tensor]:
    """`input_ids`, `attention_mask` and `labels` (-100 but at the chosen tokens), each (B, L), padded on the right.

    Words are drawn until `probability` of a text's tokens are chosen, one word at least; a word that would exceed that
    is passed over. A chosen token becomes [MASK] in 80 % of cases, any token in 10 %, and stays as it is in 10 %.

    Args:
        examples: from `encode_words`.
        tokenizer: for the ids of [PAD] and [MASK] and the number of tokens.
        generator: of all random choices; seed it by step and rank.
        probability: share of the tokens, special ones not counted.
        whole_words: choose all tokens of a word together; False chooses single tokens.

    Raises:
        ValueError: the tokenizer has no [MASK].
    """
    if tokenizer.mask_token_id is None:
        raise ValueError("masking needs a tokenizer with a [MASK] token, and this one has none")
    length = max(len(example["input_ids"]) for example in examples)
    ids_BL = torch.full((len(examples), length), tokenizer.pad_token_id)
    attention_BL = torch.zeros_like(ids_BL)
    chosen_BL = torch.zeros_like(ids_BL, dtype=torch.bool)
    for row, example in enumerate(examples):
        size = len(example["input_ids"])
        ids_BL[row, :size] = torch.from_numpy(np.array(example["input_ids"], dtype=np.int64))
        attention_BL[row, :size] = 1
        chosen_BL[row, _choose(np.asarray(example["word_ids"]).tolist(), probability, whole_words, generator)] = True
    labels_BL = ids_BL.masked_fill(~chosen_BL, -100)
    draw_BL = torch.rand(ids_BL.shape, generator=generator)
    random_BL = torch.randint(len(tokenizer), ids_BL.shape, generator=generator)
    ids_BL = torch.where(chosen_BL & (draw_BL < 0.8), tokenizer.mask_token_id, ids_BL)
    ids_BL = torch.where(chosen_BL & (draw_BL >= 0.9), random_BL, ids_BL)
    return {"input_ids": ids_BL, "attention_mask": attention_BL, "labels": labels_BL}


def _choose(word_ids: list[int], probability: float, whole_words: bool, generator: torch.Generator) -> list[int]:
    """Positions to be predicted."""
    words: dict[int, list[int]] = {}
    for position, word in enumerate(word_ids):
        if word >= 0:
            words.setdefault(word if whole_words else position, []).append(position)
    groups = list(words.values())
    quota = max(1, round(probability * sum(map(len, groups))))
    chosen: list[int] = []
    for place in torch.randperm(len(groups), generator=generator).tolist():
        if not chosen or len(chosen) + len(groups[place]) <= quota:
            chosen += groups[place]
        if len(chosen) >= quota:
            break
    return chosen
