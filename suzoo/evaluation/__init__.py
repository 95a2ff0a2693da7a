"""Evaluation: predictions to numbers for a report. Everything returns Python floats."""

from suzoo.evaluation.correlation import pearson, spearman
from suzoo.evaluation.ranking import mrr_at_k, ndcg_at_k, recall_at_k
from suzoo.evaluation.sentences import pair_cosines, pair_metrics, reranking_metrics, retrieval_metrics
from suzoo.evaluation.threshold import accuracy_at, best_threshold

__all__ = [
    "accuracy_at",
    "best_threshold",
    "mrr_at_k",
    "ndcg_at_k",
    "pair_cosines",
    "pair_metrics",
    "pearson",
    "recall_at_k",
    "reranking_metrics",
    "retrieval_metrics",
    "spearman",
]
