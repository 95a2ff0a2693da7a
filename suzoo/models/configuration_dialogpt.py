"""Configuration of the dialogue language model."""

from __future__ import annotations

from ._oldest import OLDEST  # isort: skip  # noqa: F401  first: it refuses a transformers that lacks what follows
from typing import Any

from ._configuration import BackboneConfig
from ._dialogue import LAYOUTS

# some because transformers before 5.17 copies from a folder only what this file names
from ._linear_attention import LINEAR_KINDS  # noqa: F401
from ._position_kinds import POSITIONS  # noqa: F401
from ._positions import count_positions  # noqa: F401
from ._versions import CACHE  # noqa: F401


class DialoGPTConfig(BackboneConfig):
    """Fields of `BackboneConfig`, and:

    Args:
        layout: `blog`, `cdial` or `dialogpt`, see `_dialogue`. Only `blog` uses the token types.
        use_cache: keep keys and values while generating.
    """

    model_type = "dialogpt"
    sees_past_only = True

    layout: str = "dialogpt"
    use_cache: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.layout not in LAYOUTS:
            raise ValueError(f"layout is one of {LAYOUTS}, not {self.layout!r}")

    @property
    def is_stock(self) -> bool:
        """Whether a stock `BertLMHeadModel` computes the same, token types included."""
        return self.has_stock_layers and self.layout != "blog" and not self.self_terminating

    @property
    def turn_end_id(self) -> int:
        """The id of [SEP], which ends a turn; the first of several `eos_token_id`."""
        if self.eos_token_id is None:
            raise ValueError("the dialogue layouts need eos_token_id, the id of [SEP]")
        return self.eos_token_id[0] if isinstance(self.eos_token_id, list) else self.eos_token_id
