"""Tokenizers in saved folders: written so that transformers 4 and 5 read the same, loaded from the same place as the
weights. No padding or truncation of an earlier call is saved."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from transformers import AutoTokenizer

# What says where in a repository, and by which right, a file is read: a second file must be read in the same way
HUB_OPTIONS = ("cache_dir", "local_files_only", "revision", "subfolder", "token")
# Files of tokenizers, which an older save may have left and a newer one does not write
_TOKENIZER_FILES = (
    *("added_tokens.json", "chat_template.jinja", "chat_template.json", "merges.txt", "special_tokens_map.json"),
    *("sentencepiece.bpe.model", "spiece.model", "tokenizer.json", "tokenizer.model", "tokenizer_config.json"),
    *("vocab.json", "vocab.txt"),
)


def only_hub_options(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Those of `from_pretrained`'s arguments that say which files are meant, and by which right they are read."""
    return {name: kwargs[name] for name in HUB_OPTIONS if kwargs.get(name) is not None}


def hub_options(name: str, kwargs: dict[str, Any]) -> dict[str, Any]:
    """`only_hub_options` for a second load from `name`, once its config was read. Its revision is the commit of that
    config: a branch may move on."""
    options = only_hub_options(kwargs)
    if os.path.isdir(name):
        return options
    where = {key: options.get(key) for key in ("cache_dir", "revision")}
    found = try_to_load_from_cache(name, "/".join(filter(None, [options.get("subfolder"), "config.json"])), **where)
    parts = Path(found).parts if isinstance(found, str) else ()
    return options | ({"revision": parts[parts.index("snapshots") + 1]} if "snapshots" in parts else {})


def load_tokenizer(name: str, *, trust_remote_code: bool = False, **options: Any) -> Any:
    """The tokenizer of a folder or Hub repository.

    Args:
        trust_remote_code: let it run code that it brings along.
        options: some of `HUB_OPTIONS`.

    Raises:
        ValueError: there is none; AutoTokenizer would make one up of special tokens alone.
    """
    try:
        # said in so many words: else transformers asks on the terminal, and takes piped input for the answer
        tokenizer: Any = AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code, **options)
    except (OSError, ValueError) as error:
        raise ValueError(f"{name} holds no usable tokenizer: {error}") from error
    if len(tokenizer) < 10:
        raise ValueError(f"{name} holds no usable tokenizer")
    return tokenizer


def save_tokenizer(tokenizer: Any, folder: str | Path, *, model_max_length: int | None = None) -> None:
    """Write the files of a tokenizer, and remove those of another one that was there before.

    The class is named as transformers 4 and 5 both know it, and extra special tokens under the name that both read.

    Args:
        model_max_length: the length to which others cut; default is the tokenizer's own.
    """
    tokenizer = copy.deepcopy(tokenizer)
    if model_max_length is not None:
        tokenizer.model_max_length = model_max_length
    if tokenizer.is_fast:  # what the last call set
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
    folder = Path(folder)
    written = {Path(path).name for path in tokenizer.save_pretrained(folder)}
    for name in _TOKENIZER_FILES:
        if name not in written:
            (folder / name).unlink(missing_ok=True)
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    for name in ("max_length", "stride", "truncation_strategy", "is_local", "local_files_only"):
        settings.pop(name, None)  # of an earlier call or load
    if settings.get("tokenizer_class") == "TokenizersBackend":
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(settings.get("extra_special_tokens"), list):
        settings["additional_special_tokens"] = settings.pop("extra_special_tokens")
    path.write_text(json.dumps(settings, indent=2, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
