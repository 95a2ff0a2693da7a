"""The configuration fields that DialoGPT, UniLM and T-TA share: BERT's, and the choice of positions and norm."""

from __future__ import annotations

import sys
from inspect import get_annotations
from typing import Any

from transformers import PreTrainedConfig

POSITION_TYPES = ("absolute", "nezha", "rope")
# folders whose weights carry BERT's names, so that each of our models can start from any of them
READABLE_MODEL_TYPES = ("bert", "dialogpt", "unilm", "tta")


class BackboneConfig(PreTrainedConfig):
    """Configuration of the house Transformer. Fields that `BertConfig` also has mean the same there and here.

    Args:
        position_embedding_type: `absolute` (BERT), `nezha` (fixed sinusoids of the distance in keys and values, clipped
            at `max_relative_position`; arXiv 1909.00204) or `rope` (kexue.fm 8265, adjacent pairs are rotated).
        max_relative_position: NEZHA's clipping distance.
        rope_theta: base of RoPE's wavelengths.
        norm_first: False is BERT's post-norm; True is pre-norm with one more LayerNorm at the end (torch's name).
        bos_token_id, eos_token_id: [CLS] and [SEP]; the defaults are their ids in BERT's English and Chinese
            vocabularies.
        self_terminating: `{"epsilon": e, "monotonic": m}`, the rule of `_self_terminating` for `generate()`; None is no
            rule.

    Raises:
        ValueError: on a position type we do not have, or sizes that do not divide.
    """

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
    norm_first: bool = False
    pad_token_id: int | None = 0
    bos_token_id: int | None = 101
    eos_token_id: int | list[int] | None = 102
    tie_word_embeddings: bool = True
    self_terminating: dict[str, Any] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.position_embedding_type not in POSITION_TYPES:
            raise ValueError(
                f"position_embedding_type is one of {POSITION_TYPES}, not {self.position_embedding_type!r}"
            )
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}"
            )
        if self.position_embedding_type != "absolute" and self.hidden_size // self.num_attention_heads % 2:
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

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path, **kwargs) -> tuple[dict[str, Any], dict[str, Any]]:
        """As in `PreTrainedConfig`, but a folder of a sibling (BERT itself, or one of our models) gives the fields we
        share and the dtype of its weights, and nothing else: not its class, not its code, not its `model_type`."""
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
