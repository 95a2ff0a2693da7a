"""Evaluation: predictions to numbers for a report. Everything returns Python floats."""

from suzoo.evaluation.correlation import pearson, spearman
from suzoo.evaluation.ranking import mrr_at_k, ndcg_at_k, recall_at_k
from suzoo.evaluation.threshold import accuracy_at, best_threshold

__all__ = ["accuracy_at", "best_threshold", "mrr_at_k", "ndcg_at_k", "pearson", "recall_at_k", "spearman"]
