"""Configuration of the GRU encoder, the small member of the zoo."""

from __future__ import annotations

from ._oldest import OLDEST  # isort: skip  # noqa: F401  first: it refuses a transformers that lacks what follows
from typing import Any

from transformers import PreTrainedConfig


class GRUEncoderConfig(PreTrainedConfig):
    """Configuration of `GRUEncoderModel`. The defaults are the sizes of kexue.fm/archives/5743.

    Args:
        embedding_size: features of a token's embedding.
        hidden_size: features of a token's state; with `bidirectional` each direction has half of them.
        num_hidden_layers: GRUs on top of each other.
        bidirectional: read the text from both ends.
        hidden_dropout_prob: of the dropout in front of every layer.
        initializer_range: standard deviation of the embeddings at the start.

    Raises:
        ValueError: a size under 1, or an odd `hidden_size` with `bidirectional`.
    """

    model_type = "gru_encoder"

    vocab_size: int = 8000
    embedding_size: int = 128
    hidden_size: int = 128
    num_hidden_layers: int = 1
    bidirectional: bool = False
    hidden_dropout_prob: float = 0.1
    initializer_range: float = 0.05
    pad_token_id: int | None = 0

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        for name in ("vocab_size", "embedding_size", "hidden_size", "num_hidden_layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
        if self.bidirectional and self.hidden_size % 2:
            raise ValueError(f"hidden_size {self.hidden_size} is odd: two directions share it")
