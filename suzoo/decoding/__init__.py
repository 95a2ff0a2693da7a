"""Tokens out of a model, beyond generate()."""

from suzoo.decoding.chat import ChatSession
from suzoo.decoding.mmi import mmi_rerank, mmi_scores

__all__ = ["ChatSession", "mmi_rerank", "mmi_scores"]
