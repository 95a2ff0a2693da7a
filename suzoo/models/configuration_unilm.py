"""Configuration of UniLM, the sequence-to-sequence model inside one BERT."""

from __future__ import annotations

from ._oldest import OLDEST  # isort: skip  # noqa: F401  first: it refuses a transformers that lacks what follows
from ._configuration import BackboneConfig

# some because transformers before 5.17 copies from a folder only what this file names
from ._linear_attention import LINEAR_KINDS  # noqa: F401
from ._position_kinds import POSITIONS  # noqa: F401
from ._positions import count_positions  # noqa: F401
from ._versions import CACHE  # noqa: F401


class UniLMConfig(BackboneConfig):
    """Fields of `BackboneConfig`, and:

    Args:
        use_cache: keep keys and values while generating.
    """

    model_type = "unilm"

    use_cache: bool = True
