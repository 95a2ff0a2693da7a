"""A stock HuggingFace encoder inside a wrapper that adds a head or a pooling but no parameters of its own.

The wrapper saves the encoder under the encoder's own parameter names, so that stock classes open the folder too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedConfig, PreTrainedModel
from transformers.dynamic_module_utils import custom_object_save
from transformers.utils import cached_file

from ._versions import COMMON_KEYWORDS, SAVE_KEYWORDS, refuse_unknown

# Weights that the saved folder may lack without any effect on the output
_HARMLESS_MISSING = ("pooler.", "position_ids")
# Models whose first position id is pad_token_id + 1
POSITIONS_BEHIND_PADDING = ("camembert", "mpnet", "roberta", "xlm-roberta")


def missing_weights(info: dict[str, Any], prefix: str) -> list[str]:
    """Names below `prefix` that the folder lacked and the output depends on, from the loading info."""
    found = (key for key in info["missing_keys"] if key.startswith(prefix))
    return sorted(key for key in found if not any(part in key for part in _HARMLESS_MISSING))


def sharded_units(model: PreTrainedModel, names: Iterable[str] | None) -> list[str]:
    """The `_no_split_modules` that FSDP may wrap each by itself: not those that hold the input embeddings, which
    Accelerate wraps too, or which share their weight with the head."""
    embeddings = model.get_input_embeddings()
    others = (module for module in model.modules() if module is not embeddings)
    holders = {type(module).__name__ for module in others if embeddings in module.modules()}
    return [name for name in names or () if name not in holders]


class StockEncoderWrapper(PreTrainedModel):
    """The stock encoder, its flags, its folder, its tokenizer. Subclasses say `_auto_model`."""

    config_class = PreTrainedConfig
    base_model_prefix = "encoder"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # the loss is outside: Trainer must not scale by tokens
    _auto_model = AutoModel

    def __init__(self, config: PreTrainedConfig, encoder: PreTrainedModel | None = None):
        super().__init__(config)
        self.encoder = self._auto_model.from_config(config) if encoder is None else encoder
        self._known_keywords = COMMON_KEYWORDS | signature(type(self.encoder).forward).parameters.keys()
        self.loss_type = None  # by hand: transformers would guess one from the class name
        self.max_seq_length = None
        self._tokenizer = None
        self.post_init()
        self._no_split_modules = sharded_units(self, self._no_split_modules)

    def _init_weights(self, module) -> None:
        """Nothing: the encoder has initialised its own weights, and the wrapper has none."""

    @classmethod
    def _encoder_class(cls, config: PreTrainedConfig) -> type[PreTrainedModel]:
        encoder_class: Any = cls._auto_model._model_mapping[type(config)]
        return encoder_class[0] if isinstance(encoder_class, tuple) else encoder_class

    # What the encoder supports, the wrapper supports; the checks run before the encoder exists
    @property
    def _supports_sdpa(self) -> bool:
        return self._encoder_class(self.config)._supports_sdpa

    @property
    def _supports_flash_attn(self) -> bool:
        return self._encoder_class(self.config)._supports_flash_attn

    @property
    def _supports_flex_attn(self) -> bool:
        return self._encoder_class(self.config)._supports_flex_attn

    @property
    def _supports_attention_backend(self) -> bool:
        return self._encoder_class(self.config)._supports_attention_backend

    def get_input_embeddings(self):
        return self.encoder.get_input_embeddings()

    def set_input_embeddings(self, value) -> None:
        self.encoder.set_input_embeddings(value)

    @classmethod
    def _load_encoder(cls, path: str, kwargs: dict) -> tuple[PreTrainedModel, dict]:
        """(encoder, loading info); a head may be fresh, a missing encoder weight is an error."""
        trust = bool(kwargs.get("trust_remote_code"))
        if trust:  # a stock config stands for the stock encoder, also where the folder names our wrapper as its code
            config = AutoConfig.from_pretrained(path, trust_remote_code=True, **_where(kwargs))
            trust = not type(config).__module__.startswith("transformers.")
        kwargs = {**kwargs, "trust_remote_code": trust, "output_loading_info": True}
        encoder, info = cls._auto_model.from_pretrained(path, **kwargs)
        prefix = "" if cls._auto_model is AutoModel else encoder.base_model_prefix + "."
        if missing := missing_weights(info, prefix):
            raise ValueError(f"{path} lacks encoder weights: {', '.join(missing[:5])} ({len(missing)} in all)")
        wrong = sorted(str(key) for key, *_ in info["mismatched_keys"] if str(key).startswith(prefix))
        if wrong:
            raise ValueError(
                f"{path} has encoder weights of another size: {', '.join(wrong[:5])} ({len(wrong)} in all)"
            )
        return encoder, info

    @property
    def tokenizer(self):
        """The tokenizer of the folder the model came from, loaded on first use."""
        if self._tokenizer is None:
            name = self.config._name_or_path
            if not name:
                raise ValueError("this model came from no folder: pass tokenizer=, or set model.tokenizer")
            self._tokenizer = load_tokenizer(name)
        return self._tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer) -> None:
        self._tokenizer = tokenizer

    def _max_length(self, tokenizer, max_length: int | None) -> int | None:
        """Tokens per input: the argument, else the model's setting, else what the positions and the tokenizer allow."""
        limits = [tokenizer.model_max_length, self.num_positions]
        most = min((limit for limit in limits if limit is not None and limit < 1e9), default=None)
        if max_length is not None and most is not None and max_length > most:
            raise ValueError(f"max_length={max_length}, but this model has positions for {most} tokens")
        return max_length or self.max_seq_length or most

    @property
    def num_positions(self) -> int | None:
        """Tokens the position embeddings are enough for; None for encoders without such a limit."""
        positions = getattr(self.config, "max_position_embeddings", None)
        if not positions or positions < 0:
            return None
        return positions - (self.config.pad_token_id + 1 if self._positions_start_behind_padding else 0)

    @property
    def max_seq_length(self) -> int | None:
        """Tokens per input that `encode` and `predict` cut at; None leaves it to the positions and the tokenizer."""
        return self._max_seq_length

    @max_seq_length.setter
    def max_seq_length(self, length: int | None) -> None:
        if length is not None and self.num_positions is not None and length > self.num_positions:
            raise ValueError(f"max_seq_length={length}, but this model has positions for {self.num_positions} tokens")
        self._max_seq_length = length

    @property
    def _positions_start_behind_padding(self) -> bool:
        return self.config.model_type in POSITIONS_BEHIND_PADDING

    def _save_encoder(self, folder, state_dict: dict | None, tokenizer, kwargs: dict) -> Path:
        """Encoder weights under the encoder's own names, config with auto_map, this class's code, the tokenizer."""
        refuse_unknown("save_pretrained", kwargs, SAVE_KEYWORDS)
        if kwargs.pop("push_to_hub", False):
            raise ValueError("save_pretrained does not push: call model.push_to_hub(repo_id) or `suzoo push`")
        if state_dict is not None:
            state_dict = {key.removeprefix("encoder."): value for key, value in state_dict.items()}
        auto_class, module = self._auto_model.__name__, type(self).__module__.rsplit(".", 1)[-1]
        self.config.auto_map = {auto_class: f"{module}.{type(self).__name__}"}
        folder = Path(folder)
        self.encoder.save_pretrained(folder, state_dict=state_dict, **kwargs)
        if kwargs.get("is_main_process", True):
            if not hasattr(self.encoder, "peft_config"):  # an adapter folder has no config to name the code in
                custom_object_save(self, folder)
            tokenizer = tokenizer or self._tokenizer
            if tokenizer is not None:
                tokenizer.save_pretrained(folder)
        return folder


def load_tokenizer(name: str, *, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a folder or Hub repository.

    Args:
        trust_remote_code: let it run code that it brings along.

    Raises:
        ValueError: there is none; AutoTokenizer would make one up of special tokens alone.
    """
    try:
        # said in so many words: else transformers asks on the terminal, and takes piped input for the answer
        tokenizer: Any = AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise ValueError(f"{name} holds no usable tokenizer: {error}") from error
    if len(tokenizer) < 10:
        raise ValueError(f"{name} holds no usable tokenizer")
    return tokenizer


def _where(kwargs: dict) -> dict:
    """Those of the keywords that say which file of a repository is meant, and how to get it."""
    names = ("cache_dir", "revision", "token", "local_files_only", "subfolder")
    return {name: kwargs[name] for name in names if name in kwargs}


def read_json(path: str, filename: str, kwargs: dict) -> Any:
    """A side file of a local folder or Hub repository; None when it has none."""
    found = cached_file(
        path,
        filename,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_connection_errors=False,
        **_where(kwargs),
    )
    return None if found is None else json.loads(Path(found).read_text(encoding="utf-8"))


def write_json(path: Path, content: dict | list) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def check_texts(texts: Sequence) -> None:
    wrong = next((i for i, text in enumerate(texts) if not isinstance(text, str)), None)
    if wrong is not None:
        raise ValueError(f"text {wrong} is of type {type(texts[wrong]).__name__}, not a string")


def tokenize(tokenizer, texts: list[str], max_length: int | None, count_truncated: bool):
    """Token ids of each text, and how many tokens were cut (zeros when not asked for)."""
    if not texts:
        return [], np.zeros(0, dtype=int)
    options = {"add_special_tokens": True, "return_attention_mask": False, "return_token_type_ids": False}
    cut = {"truncation": True, "max_length": max_length} if max_length else {}
    ids = tokenizer(texts, **options, **cut)["input_ids"]
    truncated = np.zeros(len(texts), dtype=int)
    if count_truncated and max_length:
        full = [row for row, short in enumerate(ids) if len(short) == max_length]  # others can't have lost any
        whole = tokenizer([texts[row] for row in full], **options, verbose=False)["input_ids"] if full else []
        truncated[full] = [len(long) - max_length for long in whole]
    return ids, truncated
