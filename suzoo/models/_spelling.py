"""What a misspelt token may have been meant to be."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from functools import lru_cache

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase


@lru_cache(maxsize=4)
def token_scripts(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> tuple[list[str], dict[str, Tensor]]:
    """The script of each token, and the ids of each script. Scripts look like 'CJK' or '##LATIN'; '' is none.

    A script is the first word of the Unicode name of the first character. Special tokens have none, nor have CJK tokens
    of several characters: they are no slip of one character.
    """
    special = set(tokenizer.all_special_tokens)
    tokens = tokenizer.convert_ids_to_tokens(list(range(vocab_size)))
    scripts = ["" if token is None or token in special else _script(token) for token in tokens]
    ids: dict[str, list[int]] = {}
    for token_id, script in enumerate(scripts):
        ids.setdefault(script, []).append(token_id)
    return scripts, {script: torch.tensor(members) for script, members in ids.items()}


def _script(token: str) -> str:
    stem = token.removeprefix("##")
    if not stem or (len(stem) > 2 and stem[0] == "[" and stem[-1] == "]"):  # [unused1] and its like
        return ""
    script = unicodedata.name(stem[0], "").split(" ")[0]
    if script == "CJK" and len(stem) > 1:
        return ""
    return "##" + script if token != stem else script


def same_script(token_id: int, tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> Tensor:
    """Ids of all other tokens of the same script."""
    scripts, members = token_scripts(tokenizer, vocab_size)
    if not scripts[token_id]:
        return torch.empty(0, dtype=torch.long)
    ids = members[scripts[token_id]]
    return ids[ids != token_id]


def confusions(token_id: int, tokenizer: PreTrainedTokenizerBase, confusion: Mapping[str, Iterable[str]]) -> Tensor:
    """Ids of the words that `confusion` lists for the token, as far as the vocabulary has them."""
    token = str(tokenizer.convert_ids_to_tokens(token_id))
    stem = token.removeprefix("##")
    prefix = token[: len(token) - len(stem)]
    words = [prefix + word for word in dict.fromkeys(confusion.get(stem, ())) if word != stem]
    vocabulary = tokenizer.get_vocab()
    return torch.tensor([vocabulary[word] for word in words if word in vocabulary], dtype=torch.long)
