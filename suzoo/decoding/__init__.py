"""Tokens out of a model, beyond generate()."""

from suzoo.decoding.bert4keras import bert4keras_beam_search
from suzoo.decoding.chat import ChatSession
from suzoo.decoding.consistent import ConsistentTopKLogitsWarper, ConsistentTopPLogitsWarper
from suzoo.decoding.mmi import MMIReranker, mmi_rerank, mmi_scores
from suzoo.decoding.nontermination import NonterminationReport, nontermination_report
from suzoo.models._self_terminating import SelfTerminatingHead

__all__ = [
    "ChatSession",
    "ConsistentTopKLogitsWarper",
    "ConsistentTopPLogitsWarper",
    "MMIReranker",
    "NonterminationReport",
    "SelfTerminatingHead",
    "bert4keras_beam_search",
    "mmi_rerank",
    "mmi_scores",
    "nontermination_report",
]
