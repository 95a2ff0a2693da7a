"""A stock HuggingFace encoder inside a wrapper that adds a head or a pooling but no parameters of its own.

The wrapper saves the encoder under the encoder's own parameter names, so that stock classes open the folder too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.dynamic_module_utils import custom_object_save
from transformers.utils import find_adapter_config_file

from ._file_modes import share_weights
from ._ragged import RAGGED_ENCODERS, RAGGED_SDPA
from ._tokenizer_files import load_tokenizer, only_hub_options, save_tokenizer
from ._versions import ADAPTERS_SAY_WHAT_THEY_LOAD, COMMON_KEYWORDS, SAVE_KEYWORDS, refuse_unknown

# Weights that the saved folder may lack without any effect on the output
_HARMLESS_MISSING = ("pooler.", "position_ids")
# Models whose first position id is pad_token_id + 1
POSITIONS_BEHIND_PADDING = ("camembert", "mpnet", "roberta", "xlm-roberta")
# Fields of `_configuration.BackboneConfig` that a stock configuration would keep and a stock encoder would not read,
# and where they change nothing
HOUSE_ATTENTION = {
    "attention_type": "softmax",
    "attention_window": None,
    "attention_sinks": 0,
    "log_n": "off",
    "random_positions": None,
}
BERT_POSITIONS = ("absolute", "relative_key", "relative_key_query")


def num_positions(config: PreTrainedConfig) -> int | None:
    """Tokens the position embeddings are enough for; None for models without such a limit."""
    positions = getattr(config, "max_position_embeddings", None)
    if not positions or positions < 0:
        return None
    return positions - (config.pad_token_id + 1 if config.model_type in POSITIONS_BEHIND_PADDING else 0)


def refuse_house_attention(config: PreTrainedConfig, fields: dict[str, Any]) -> None:
    """Refuse, of `fields`, those of our own attention that a configuration of this class does not have."""
    known = signature(type(config).__init__).parameters
    given = [name for name, off in HOUSE_ATTENTION.items() if name not in known and fields.get(name, off) != off]
    positions = fields.get("position_embedding_type", "absolute")
    if positions not in BERT_POSITIONS and "attention_sinks" not in known:
        given.append("position_embedding_type")
    if given:
        raise ValueError(
            f"{config.model_type} computes its own attention and would not read {', '.join(given)}: windows, sinks, "
            "linear attention and our positions are of UniLMConfig, TTAConfig and DialoGPTConfig, which "
            "CoSENTModel takes as encoders, too"
        )


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
        refuse_house_attention(config, vars(config))
        super().__init__(config)
        for module in () if encoder is None else encoder.modules():  # post_init would draw anew what was put in by hand
            module._is_hf_initialized = True  # ty: ignore[invalid-assignment]
        self.encoder = self._auto_model.from_config(config) if encoder is None else encoder
        self._known_keywords = COMMON_KEYWORDS | signature(type(self.encoder).forward).parameters.keys()
        self.loss_type = None  # by hand: transformers would guess one from the class name
        self.max_seq_length = None
        self.do_lower_case = False
        self.prompts: dict[str, str] = {}
        self.default_prompt_name: str | None = None
        self._tokenizer = None
        self._source: tuple[str, dict[str, Any]] | None = None  # where its files are, and how they are read
        self.post_init()
        if config.model_type in RAGGED_ENCODERS and config._attn_implementation == "sdpa":
            self.encoder.set_attn_implementation(RAGGED_SDPA)  # of padded batches sdpa, without the fast product inside
        self._no_split_modules = sharded_units(self, self._no_split_modules)

    def _init_weights(self, module) -> None:
        """Nothing: the encoder has initialised its own weights, and the wrapper has none."""

    @classmethod
    def _encoder_class(cls, config: PreTrainedConfig) -> type[PreTrainedModel]:
        encoder_class: Any = cls._auto_model._model_mapping.get(type(config), None)
        if encoder_class is None:
            raise ValueError(
                f"{config.model_type} has no class for {cls._auto_model.__name__}, which {cls.__name__} wraps: take "
                "another encoder, such as BERT"
            )
        return encoder_class[0] if isinstance(encoder_class, tuple) else encoder_class

    def _encoder_supports(self, name: str) -> bool:
        flag = getattr(self._encoder_class(self.config), name)
        return flag.fget(self) if isinstance(flag, property) else flag  # ours ask the config

    # What the encoder supports, the wrapper supports; the checks run before the encoder exists
    @property
    def _supports_sdpa(self) -> bool:
        return self._encoder_supports("_supports_sdpa")

    @property
    def _supports_flash_attn(self) -> bool:
        return self._encoder_supports("_supports_flash_attn")

    @property
    def _supports_flex_attn(self) -> bool:
        return self._encoder_supports("_supports_flex_attn")

    @property
    def _supports_attention_backend(self) -> bool:
        return self._encoder_supports("_supports_attention_backend")

    def get_input_embeddings(self):
        return self.encoder.get_input_embeddings()

    def set_input_embeddings(self, value) -> None:
        self.encoder.set_input_embeddings(value)

    @classmethod
    def _load_encoder(cls, path: str, kwargs: dict) -> tuple[PreTrainedModel, dict]:
        """(encoder, loading info); a head may be fresh, a missing encoder weight is an error."""
        trust = bool(kwargs.get("trust_remote_code"))
        if any(name in kwargs for name in (*HOUSE_ATTENTION, "position_embedding_type")):
            config = AutoConfig.from_pretrained(path, trust_remote_code=trust, **only_hub_options(kwargs))
            refuse_house_attention(config, kwargs)
        if trust:  # a stock config stands for the stock encoder, also where the folder names our wrapper as its code
            config = AutoConfig.from_pretrained(path, trust_remote_code=True, **only_hub_options(kwargs))
            trust = not type(config).__module__.startswith("transformers.")
        kwargs = {**kwargs, "trust_remote_code": trust}
        if not ADAPTERS_SAY_WHAT_THEY_LOAD and find_adapter_config_file(path, **only_hub_options(kwargs)):
            return cls._auto_model.from_pretrained(path, **kwargs), {"missing_keys": [], "mismatched_keys": []}
        encoder, info = cls._auto_model.from_pretrained(path, output_loading_info=True, **kwargs)
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
        """The tokenizer of the folder the model came from, of the same revision, loaded on first use."""
        if self._tokenizer is None:
            if self._source is None:
                raise ValueError("this model came from no folder: pass tokenizer=, or set model.tokenizer")
            path, options = self._source
            self._tokenizer = load_tokenizer(path, **options)
        return self._tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer) -> None:
        self._tokenizer = tokenizer

    def _max_length(self, tokenizer, max_length: int | None) -> int | None:
        """Tokens per input: the argument, else the model's setting, else what the positions and the tokenizer allow."""
        if max_length is not None and self.num_positions is not None and max_length > self.num_positions:
            raise ValueError(
                f"max_length={max_length}, but this model has positions for {self.num_positions} tokens: take no more"
            )
        limits = [tokenizer.model_max_length, self.num_positions]
        most = min((limit for limit in limits if limit is not None and limit < 1e9), default=None)
        return max_length or self.max_seq_length or most

    def prompt_text(self, prompt_name: str | None = None, prompt: str | None = None) -> str:
        """What is put before an input: `prompt`, else the prompt of that name, else the default one, else nothing.

        Raises:
            ValueError: no prompt has this name.
        """
        if prompt is not None:
            return prompt
        name = prompt_name or self.default_prompt_name
        if name is None:
            return ""
        if name not in self.prompts:
            raise ValueError(f"no prompt is called {name!r}; this model has {', '.join(self.prompts) or 'none'}")
        return self.prompts[name]

    def as_read(self, texts: Sequence[str], prompt: str = "") -> list[str]:
        """The texts as the tokenizer gets them: `prompt` in front, in lower case where the model wants that."""
        texts = [prompt + text for text in texts]
        return ["".join(map(str.lower, text)) for text in texts] if self.do_lower_case else texts

    @property
    def num_positions(self) -> int | None:
        """As the function of this name."""
        return num_positions(self.config)

    def _within_positions(self, length: int | None) -> int | None:
        """A saved length; some folders promise more than their positions."""
        return length if length is None or self.num_positions is None else min(length, self.num_positions)

    @property
    def max_seq_length(self) -> int | None:
        """Tokens per input that `encode` and `predict` cut at; None leaves it to the positions and the tokenizer."""
        return self._max_seq_length

    @max_seq_length.setter
    def max_seq_length(self, length: int | None) -> None:
        if length is not None and self.num_positions is not None and length > self.num_positions:
            raise ValueError(
                f"max_seq_length={length}, but this model has positions for {self.num_positions} tokens: take no more "
                "(--max-length in the scripts)"
            )
        self._max_seq_length = length

    @property
    def _positions_start_behind_padding(self) -> bool:
        return self.config.model_type in POSITIONS_BEHIND_PADDING

    @property
    def encoder_has_code(self) -> bool:
        """Whether the encoder is no stock class and saves its own code beside its weights, as `GRUEncoderModel`."""
        return self.encoder._auto_class is not None

    def _save_encoder(self, folder, state_dict: dict | None, tokenizer, with_code: bool, kwargs: dict) -> Path:
        """Encoder weights under the encoder's own names, its config, the tokenizer; the code of this class on request.

        What an older save left and this one does not write is removed, or it would change what opens."""
        refuse_unknown("save_pretrained", kwargs, SAVE_KEYWORDS)
        if kwargs.pop("push_to_hub", False):
            raise ValueError("save_pretrained does not push: call model.push_to_hub(repo_id) or `suzoo push`")
        if state_dict is not None:
            state_dict = {key.removeprefix("encoder."): value for key, value in state_dict.items()}
        folder, is_adapter = Path(folder), hasattr(self.encoder, "peft_config")
        if with_code and is_adapter:
            raise ValueError("an adapter folder has no config to name code in: merge the adapter, or save without code")
        if with_code and self.encoder_has_code:
            raise ValueError("the folder holds the encoder's own code, and config.json names one code: leave with_code")
        if not self.encoder_has_code:
            self.config.__dict__.pop("auto_map", None)
        if with_code:
            module = type(self).__module__.rsplit(".", 1)[-1]
            self.config.auto_map = {self._auto_model.__name__: f"{module}.{type(self).__name__}"}
        if kwargs.get("is_main_process", True):
            _remove_older_save(folder)
        self.encoder.save_pretrained(folder, state_dict=state_dict, **kwargs)
        if kwargs.get("is_main_process", True):
            share_weights(folder)
            if with_code:
                custom_object_save(self, folder)
            tokenizer = tokenizer or self._tokenizer
            if tokenizer is not None:
                save_tokenizer(tokenizer, folder, model_max_length=self._max_length(tokenizer, None))
        return folder


def _remove_older_save(folder: Path) -> None:
    """Remove the code and the adapter of an older save."""
    here = Path(__file__).resolve().parent
    names = ["adapter_config.json", "adapter_model.safetensors"]
    names += [path.name for path in here.glob("*.py") if path.name != "__init__.py"]
    if folder.resolve() != here:
        for name in names:
            (folder / name).unlink(missing_ok=True)


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
