"""Configuration of T-TA, the masked language model that reads every token from all others in one pass."""

from __future__ import annotations

from ._oldest import OLDEST  # isort: skip  # noqa: F401  first: it refuses a transformers that lacks what follows
from typing import Any

from ._configuration import BackboneConfig

# some because transformers before 5.17 copies from a folder only what this file names
from ._linear_attention import LINEAR_KINDS  # noqa: F401
from ._position_kinds import POSITIONS  # noqa: F401
from ._positions import count_positions  # noqa: F401
from ._versions import CACHE  # noqa: F401

QUERY_INITS = ("mask", "position")


class TTAConfig(BackboneConfig):
    """Fields of `BackboneConfig`, and:

    Args:
        query_init: what the query stream starts from besides the token type: `mask`, the embedding of [MASK] and the
            position (the authors' code), or `position` alone (the paper's formula and kexue.fm 7661).
        mask_token_id: id of [MASK]; default 103 as in BERT's vocabularies, or the last id of a smaller vocabulary.

    Raises:
        ValueError: unknown `query_init`; `position` without absolute positions, which would leave the queries empty;
            `mask_token_id` outside the vocabulary.
    """

    model_type = "tta"
    sees_itself = False

    query_init: str = "mask"
    mask_token_id: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.mask_token_id is None:
            self.mask_token_id = min(103, self.vocab_size - 1)
        if self.query_init not in QUERY_INITS:
            raise ValueError(f"query_init is one of {QUERY_INITS}, not {self.query_init!r}")
        if self.query_init == "position" and self.position_embedding_type != "absolute":
            raise ValueError("query_init='position' needs absolute positions, or all queries start the same")
        if not 0 <= self.mask_token_id < self.vocab_size:
            raise ValueError(f"mask_token_id {self.mask_token_id} is outside the vocabulary of {self.vocab_size}")
