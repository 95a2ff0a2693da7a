"""The tokenizer of a folder, asked as strangers ask it: with nothing but texts.

Every program calls it with its own defaults, so these are part of the model: what it pads, where it cuts, what a text
that was rendered from the chat template becomes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def open_tokenizer(folder: str, promise: dict, trust: bool = False) -> dict:
    """Compares ids and raises; there are no numbers to give.

    Raises:
        ValueError: what a user would stumble over, in one sentence.
    """
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust)
    _check_ids(tokenizer, json.loads(Path(folder, "config.json").read_text(encoding="utf-8")))
    _check_padding(tokenizer, promise)
    _check_lengths(tokenizer, promise)
    for text, ids in promise["tokens"]:
        if (read := tokenizer(text, truncation=True, verbose=False)["input_ids"]) != ids:
            raise ValueError(f"reads {text[:40]!r} as {_shown(tokenizer, read, ids)}")
    if tokenizer.chat_template:
        _check_template(tokenizer, [chat for chat in promise["inputs"] if not isinstance(chat, str)])
    return {}


def _check_ids(tokenizer, config: dict) -> None:
    """One id per token, and a row of the model for each."""
    tokens: dict[int, str] = {}
    for token, token_id in tokenizer.get_vocab().items():
        if token_id in tokens:
            raise ValueError(f"the tokens {tokens[token_id]!r} and {token!r} have one id, {token_id}")
        tokens[token_id] = token
    num_rows = config.get("vocab_size")
    if num_rows and max(tokens) >= num_rows:
        raise ValueError(f"the token {tokens[max(tokens)]!r} has the id {max(tokens)}, the model {num_rows} rows")


def _check_padding(tokenizer, promise: dict) -> None:
    if tokenizer.pad_token_id is None:
        raise ValueError("names no pad_token, so that nobody can make a batch")
    is_generator = promise["kind"] == "causal-lm"
    if is_generator and tokenizer.eos_token_id is None:
        raise ValueError("names no eos_token, which programs for language models ask for")
    if is_generator and "token_type_ids" in tokenizer.model_input_names:
        raise ValueError(
            "gives token types, zeros, which the model would take for speakers or words: model_input_names"
        )
    side = "left" if is_generator else promise["padding_side"]
    if tokenizer.padding_side != side:
        raise ValueError(f"pads on the {tokenizer.padding_side}, promised is {side}")


def _check_lengths(tokenizer, promise: dict) -> None:
    """`truncation=True` alone cuts a long text to what the model takes."""
    limit = promise["max_length"]
    if not limit:
        return
    longest, ids = max(promise["tokens"], key=lambda entry: len(entry[1]))
    text = longest * (2 + 2 * limit // len(ids))
    num_tokens = len(tokenizer(text, truncation=True, verbose=False)["input_ids"])
    if num_tokens != limit:
        raise ValueError(
            f"cuts a long text at {num_tokens} tokens (model_max_length is {tokenizer.model_max_length}), the model "
            f"takes {limit}"
        )


def _check_template(tokenizer, chats: list[list[dict]]) -> None:
    """A rendered text gives the ids of `tokenize=True`, and the mask of the assistant holds what the assistant said."""
    spaced = [[message | {"content": f" {message['content']}  "} for message in chat] for chat in chats]
    silent = [[*chat, {"role": "assistant", "content": ""}] for chat in chats if chat[-1]["role"] == "user"]
    marks = "generation %}" in tokenizer.chat_template
    if marks:
        _check_trimmed(tokenizer, chats, spaced)
    for chat in [*chats, *spaced, *silent]:
        for is_prompt in (True, False):
            text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=is_prompt)
            direct = tokenizer.apply_chat_template(chat, add_generation_prompt=is_prompt, return_dict=True)["input_ids"]
            again = tokenizer(text, verbose=False)["input_ids"]
            if again != direct:
                raise ValueError(
                    f"reads the text rendered from its chat template as {_shown(tokenizer, again, direct)} "
                    "with tokenize=True"
                )
        if marks:
            _check_mask(tokenizer, chat)


def _check_trimmed(tokenizer, chats: list[list[dict]], spaced: list[list[dict]]) -> None:
    """A space at the end of what is marked moves the mask of transformers before 5.24."""
    for chat, with_spaces in zip(chats, spaced, strict=True):
        plain, text = (tokenizer.apply_chat_template(messages, tokenize=False) for messages in (chat, with_spaces))
        if text != plain:
            raise ValueError(f"keeps the spaces around a message, {text!r} (chat template: trim the content)")


def _check_mask(tokenizer, chat: list[dict]) -> None:
    rendered = tokenizer.apply_chat_template(chat, return_dict=True, return_assistant_tokens_mask=True)
    special = set(tokenizer.all_special_ids)
    marked = [i for i, mask in zip(rendered["input_ids"], rendered["assistant_masks"], strict=True) if mask]
    said = [message["content"].strip() for message in chat if message["role"] == "assistant"]
    expected = [i for text in said for i in tokenizer(text, add_special_tokens=False)["input_ids"]]
    if [i for i in marked if i not in special] != [i for i in expected if i not in special]:
        raise ValueError(
            f"marks {tokenizer.decode(marked)!r} as said by the assistant, who said {' '.join(said)!r} (chat template)"
        )


def _shown(tokenizer, read: list[int], promised: list[int]) -> str:
    """Both as tokens, from shortly before the first that differs."""
    pairs = zip(read, promised, strict=False)
    start = next((i for i, (one, other) in enumerate(pairs) if one != other), min(len(read), len(promised)))
    window = slice(max(0, start - 1), start + 4)
    mine, theirs = (" ".join(tokenizer.convert_ids_to_tokens(ids[window])) for ids in (read, promised))
    return f"{mine!r} from token {window.start} on ({len(read)} in all), promised is {theirs!r} ({len(promised)})"
