"""Tokens out of a model, beyond generate()."""

from suzoo.decoding.bert4keras import bert4keras_beam_search
from suzoo.decoding.chat import ChatSession
from suzoo.decoding.mmi import mmi_rerank, mmi_scores

__all__ = ["ChatSession", "bert4keras_beam_search", "mmi_rerank", "mmi_scores"]
