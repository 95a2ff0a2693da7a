"""The configuration fields that DialoGPT, UniLM and T-TA share: BERT's, and the choice of positions and norm."""

from __future__ import annotations

import sys
from inspect import get_annotations
from typing import Any

from transformers import PreTrainedConfig

from ._linear_attention import LINEAR_KINDS
from ._position_kinds import POSITIONS
from ._positions import EQUAL_MEAN

LOG_N = ("off", "train", "inference")
# folders whose weights carry BERT's names, so that each of our models can start from any of them
READABLE_MODEL_TYPES = ("bert", "dialogpt", "unilm", "tta")


class BackboneConfig(PreTrainedConfig):
    """Configuration of the house Transformer. Fields that `BertConfig` also has mean the same there and here.

    Args:
        position_embedding_type: one of `_position_kinds.POSITIONS`: `absolute` (BERT), `none`, `nezha` (fixed sinusoids
            of the distance in keys and values, clipped at `max_relative_position`; arXiv 1909.00204), `rope` (kexue.fm
            8265, adjacent pairs are rotated), `xpos`, `rerope`, `leaky_rerope`, `alibi`, `kerple_log`, `kerple_power`
            or `sandwich` (kexue.fm 9431 and 9708).
        max_relative_position: NEZHA's clipping distance.
        rope_theta: base of RoPE's wavelengths.
        rope_window: of ReRoPE and Leaky ReRoPE: distances under it are RoPE's. A model that was trained with `rope` may
            be opened with either.
        rope_slowdown: of Leaky ReRoPE: behind the window the distance grows by 1 / rope_slowdown.
        attention_type: `softmax`, or a kind of linear attention (kexue.fm 7546): `elu1`, `taylor1`, `taylor2` or
            `efficient` (not T-TA), see `_linear_attention`; with absolute or no positions.
        attention_window: a token sees others at a distance under it only; None sees all (kexue.fm 9431).
        attention_sinks: the first so many tokens of a text stay visible behind the window (kexue.fm 9948).
        log_n: `train` multiplies the scores by log n / log log_n_base for n visible keys, which keeps their entropy
            (kexue.fm 8823); `inference` does that where it is above 1, for a model trained with `off`.
        log_n_base: the training length.
        random_positions: in training the positions of a text are drawn from so many, in order (kexue.fm 9444); or
            `equal_mean`, evenly spaced up to a last one that is random, with the length as mean, for kinds whose
            positions may be fractions. None counts them.
        norm_first: False is BERT's post-norm; True is pre-norm with one more LayerNorm at the end (torch's name).
        bos_token_id, eos_token_id: [CLS] and [SEP]; the defaults are their ids in BERT's English and Chinese
            vocabularies.
        self_terminating: `{"epsilon": e, "monotonic": m}`, the rule of `_self_terminating` for `generate()`; None is no
            rule.

    Raises:
        ValueError: on a position type we do not have, or sizes that do not divide.
    """

    # of the class
    sees_past_only = False  # no token sees what stands to its right
    sees_itself = True  # a token sees its own key

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    position_embedding_type: str = "absolute"
    max_relative_position: int = 64
    rope_theta: float = 10000.0
    rope_window: int = 256
    rope_slowdown: float = 8.0
    attention_type: str = "softmax"
    attention_window: int | None = None
    attention_sinks: int = 0
    log_n: str = "off"
    log_n_base: int = 512
    random_positions: int | str | None = None
    norm_first: bool = False
    pad_token_id: int | None = 0
    bos_token_id: int | None = 101
    eos_token_id: int | list[int] | None = 102
    tie_word_embeddings: bool = True
    self_terminating: dict[str, Any] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.position_embedding_type not in POSITIONS:
            raise ValueError(
                f"position_embedding_type is one of {', '.join(POSITIONS)}, not {self.position_embedding_type!r}"
            )
        kind = POSITIONS[self.position_embedding_type]
        if kind.causal_only and not self.sees_past_only:
            raise ValueError(
                f"{self.position_embedding_type} positions grow to the right, where this model sees, too: they are for "
                "causal models"
            )
        if self.attention_type not in ("softmax", *LINEAR_KINDS):
            raise ValueError(f"attention_type is softmax or one of {LINEAR_KINDS}, not {self.attention_type!r}")
        if self.is_linear:
            if self.attention_type == "efficient" and not self.sees_itself:
                raise ValueError(
                    "efficient attention takes the softmax of each feature over all tokens at once, a token's own "
                    "among them, which T-TA must not see: elu1, taylor1 and taylor2 go without"
                )
            scores = self.attention_window is not None or self.log_n != "off"
            if scores or self.position_embedding_type not in ("absolute", "none"):
                raise ValueError(
                    f"linear attention has no scores: beside attention_type {self.attention_type!r} the positions are "
                    "'absolute' or 'none' (--positions), and there is no window and no log_n"
                )
        if self.log_n not in LOG_N:
            raise ValueError(f"log_n is one of {LOG_N}, not {self.log_n!r}")
        drawn = self.random_positions
        if isinstance(drawn, str) and (drawn != EQUAL_MEAN or kind.whole):
            raise ValueError(
                f"random_positions is a number or {EQUAL_MEAN}, and that not for {self.position_embedding_type} "
                f"positions, which are whole numbers: not {drawn!r}"
            )
        drawn = None if isinstance(drawn, str) else drawn
        for name, value in {
            "attention_window": self.attention_window, "random_positions": drawn, "rope_window": self.rope_window,
        }.items():  # fmt: skip
            if value is not None and value < 1:
                raise ValueError(f"{name} must be positive, not {value}")
        if self.attention_sinks < 0 or self.log_n_base < 2 or not self.rope_slowdown > 0:
            raise ValueError("attention_sinks is 0 or more, log_n_base 2 or more, and rope_slowdown above 0")
        if kind.limited and (drawn or 0) > self.max_position_embeddings:
            raise ValueError(
                f"random_positions {drawn} is more than the model's {self.max_position_embeddings} positions"
            )
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}"
            )
        if kind.even_heads and self.hidden_size // self.num_attention_heads % 2:
            raise ValueError(
                f"{self.position_embedding_type} positions need an even head size, not "
                f"{self.hidden_size} / {self.num_attention_heads}"
            )

    def to_dict(self) -> dict[str, Any]:
        """As in `PreTrainedConfig`. peft reads the model type here to look up which modules it adapts by default; ours
        have the names of BERT's."""
        constants = sys.modules.get("peft.utils.constants")
        for name, modules in vars(constants).items() if constants else ():
            if name.startswith("TRANSFORMERS_MODELS_TO_") and "bert" in modules:
                modules.setdefault(self.model_type, modules["bert"])
        return super().to_dict()

    @property
    def is_linear(self) -> bool:
        return self.attention_type != "softmax"

    @property
    def has_stock_layers(self) -> bool:
        """Whether BERT's layers compute the same, for the same mask."""
        changed = self.norm_first or self.is_linear or self.attention_window is not None or self.log_n != "off"
        return self.position_embedding_type == "absolute" and not changed

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path, **kwargs) -> tuple[dict[str, Any], dict[str, Any]]:
        """As in `PreTrainedConfig`, but a folder of a sibling (BERT itself, or one of our models) gives only the
        fields we share and the dtype of its weights. It does not give its class, its code or its `model_type`."""
        config_dict, kwargs = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        source = config_dict.get("model_type", cls.model_type)
        if source == cls.model_type:
            return config_dict, kwargs
        if source not in READABLE_MODEL_TYPES:
            raise ValueError(
                f"{pretrained_model_name_or_path} is a {source!r} model; {cls.model_type} starts from folders with "
                f"BERT's weight names, that is model_type {', '.join(READABLE_MODEL_TYPES)}"
            )
        own = {name for base in cls.__mro__ if issubclass(base, BackboneConfig) for name in get_annotations(base)}
        own |= {"dtype", "torch_dtype"}  # the newer and the older name
        return {name: value for name, value in config_dict.items() if name in own}, kwargs
