"""The numbers of sentence encoders and cross-encoders, from what their `encode` and `predict` return."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from suzoo.evaluation.correlation import pearson, spearman
from suzoo.evaluation.ranking import mrr_at_k, ndcg_at_k, recall_at_k
from suzoo.evaluation.threshold import best_threshold


def pair_cosines(encode: Callable[..., np.ndarray], pairs: Sequence[Any]) -> np.ndarray:
    """Cosine (N,) of every pair's texts (`.text1`, `.text2`); `encode(texts, normalize=True)` gives unit vectors."""
    vectors = encode([text for pair in pairs for text in (pair.text1, pair.text2)], normalize=True)
    return (vectors[0::2] * vectors[1::2]).sum(1)


def pair_metrics(scores: Sequence[float] | np.ndarray, labels: Sequence[float]) -> dict[str, float]:
    """Spearman and Pearson; for labels of two values also the best accuracy and the threshold that gives it."""
    values = {"spearman": spearman(scores, labels), "pearson": pearson(scores, labels)}
    if len(set(labels)) == 2:
        positive = np.asarray(labels) == max(labels)
        values["accuracy"], values["threshold"] = best_threshold(scores, positive)
    return values


def _ranking_metrics(results: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    return {
        "mrr@10": mrr_at_k(results, 10),
        "ndcg@10": ndcg_at_k(results, 10),
        "recall@1": recall_at_k(results, 1),
        "recall@10": recall_at_k(results, 10),
    }


def retrieval_metrics(encode: Callable[..., np.ndarray], queries: Sequence[Any]) -> dict[str, float]:
    """MRR@10, NDCG@10, recall@1 and @10 of every query (`.query`, `.positives`, `.negatives`) against all documents.

    The documents are the positives and negatives of all queries, each once, so the numbers fall with their number.
    """
    documents = list(dict.fromkeys(text for query in queries for text in (*query.positives, *query.negatives)))
    place = {text: i for i, text in enumerate(documents)}
    query_vectors = encode([query.query for query in queries], normalize=True)
    document_vectors = encode(documents, normalize=True)
    results = []
    for query, vector in zip(queries, query_vectors, strict=True):
        relevance = np.zeros(len(documents))
        relevance[[place[text] for text in query.positives]] = 1
        results.append((document_vectors @ vector, relevance))
    return _ranking_metrics(results)


def reranking_metrics(predict: Callable[..., np.ndarray], queries: Sequence[Any]) -> dict[str, float]:
    """The same numbers with each query's own positives and negatives alone, scored by `predict(pairs)`."""
    pairs = [(query.query, text) for query in queries for text in (*query.positives, *query.negatives)]
    scores, results, start = predict(pairs), [], 0
    for query in queries:
        relevance = np.array([1.0] * len(query.positives) + [0.0] * len(query.negatives))
        results.append((scores[start : start + len(relevance)], relevance))
        start += len(relevance)
    return _ranking_metrics(results)
