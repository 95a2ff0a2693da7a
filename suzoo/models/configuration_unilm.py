"""Configuration of UniLM, the sequence-to-sequence model inside one BERT."""

from __future__ import annotations

from ._configuration import BackboneConfig


class UniLMConfig(BackboneConfig):
    """Fields of `BackboneConfig`, and:

    Args:
        use_cache: keep keys and values while generating.
    """

    model_type = "unilm"

    use_cache: bool = True
