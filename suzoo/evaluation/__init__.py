"""Evaluation: predictions to numbers for a report. Everything returns Python floats."""

from suzoo.evaluation.classification import classification_scores
from suzoo.evaluation.correlation import pearson, spearman
from suzoo.evaluation.pseudo_likelihood import masked_log_likelihoods
from suzoo.evaluation.ranking import mrr_at_k, ndcg_at_k, recall_at_k
from suzoo.evaluation.sentences import pair_cosines, pair_metrics, reranking_metrics, retrieval_metrics
from suzoo.evaluation.spelling import spelling_scores
from suzoo.evaluation.text import (
    article_scores,
    bits_per_character,
    characters,
    distinct_n_corpus,
    distinct_n_mean,
    generation_scores,
    mean_perplexity,
    perplexity,
    word_error_rate,
)
from suzoo.evaluation.threshold import accuracy_at, best_threshold

__all__ = [
    "accuracy_at",
    "article_scores",
    "best_threshold",
    "bits_per_character",
    "characters",
    "classification_scores",
    "distinct_n_corpus",
    "distinct_n_mean",
    "generation_scores",
    "masked_log_likelihoods",
    "mean_perplexity",
    "mrr_at_k",
    "ndcg_at_k",
    "pair_cosines",
    "pair_metrics",
    "pearson",
    "perplexity",
    "recall_at_k",
    "reranking_metrics",
    "retrieval_metrics",
    "spearman",
    "spelling_scores",
    "word_error_rate",
]
