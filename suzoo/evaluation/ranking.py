"""Retrieval and reranking: one list of scored documents per query.

All functions take `results`, for each query a pair (scores, relevance) of two arrays over its documents in any order:
the model's scores, and 0 for irrelevant or a positive grade. They return the mean over the queries. Among documents of
equal score the less relevant ones are ranked first, so that a model that scores everything alike gets no credit for the
order in which the documents happen to stand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from suzoo.evaluation._arrays import Values, paired

RANKING_METRICS = ("mrr@10", "ndcg@10", "recall@1", "recall@10")
Results = Sequence[tuple[Values, Values]]


def mrr_at_k(results: Results, k: int = 10) -> float:
    """Mean reciprocal rank: 1/rank of the first relevant document, 0 if none is among the first k."""

    def reciprocal_rank(ranked: np.ndarray) -> float:
        hits = np.flatnonzero(ranked[:k])
        return 1.0 / (hits[0] + 1) if len(hits) else 0.0

    return _mean(reciprocal_rank, results, k)


def ndcg_at_k(results: Results, k: int = 10) -> float:
    """Normalized discounted cumulative gain with the grade itself as gain (Järvelin and Kekäläinen, 2002).

    Grade / log2(rank + 1) summed over the first k, divided by the same sum for the best order of all documents.
    """

    def ndcg(ranked: np.ndarray) -> float:
        discounts = 1.0 / np.log2(np.arange(2, len(ranked[:k]) + 2))
        return (ranked[:k] @ discounts) / (np.sort(ranked)[::-1][:k] @ discounts)

    return _mean(ndcg, results, k)


def recall_at_k(results: Results, k: int = 10) -> float:
    """Share of a query's relevant documents that are among the first k."""
    return _mean(lambda ranked: np.count_nonzero(ranked[:k]) / np.count_nonzero(ranked), results, k)


def ranks_of_positives(scores: np.ndarray, positives: np.ndarray) -> np.ndarray:
    """Ascending ranks (P,) from 1 of a query's relevant documents among all, without sorting them: of documents with
    equal score the irrelevant ones come first, as everywhere here.

    Args:
        scores: (N,) of all documents.
        positives: (P,) places of the relevant ones.
    """
    found = np.sort(scores[positives])[::-1]
    not_behind = np.array([np.count_nonzero(scores >= score) for score in found])
    positives_not_behind = len(found) - np.searchsorted(found[::-1], found, side="left")
    return not_behind - positives_not_behind + np.arange(1, len(found) + 1)


def metrics_of_ranks(ranks: Sequence[np.ndarray]) -> dict[str, float]:
    """`mrr@10`, `ndcg@10`, `recall@1` and `recall@10` from every query's `ranks_of_positives`, all equally relevant.

    The numbers are those of `mrr_at_k`, `ndcg_at_k` and `recall_at_k`.
    """
    if not len(ranks):
        raise ValueError("there is no query to evaluate")

    def ndcg(found: np.ndarray) -> float:
        return (1 / np.log2(found[found <= 10] + 1)).sum() / (1 / np.log2(np.arange(2, min(len(found), 10) + 2))).sum()

    return {
        "mrr@10": float(np.mean([1 / found[0] if found[0] <= 10 else 0.0 for found in ranks])),
        "ndcg@10": float(np.mean([ndcg(found) for found in ranks])),
        "recall@1": float(np.mean([np.mean(found <= 1) for found in ranks])),
        "recall@10": float(np.mean([np.mean(found <= 10) for found in ranks])),
    }


def _mean(metric: Callable[[np.ndarray], float], results: Results, k: int) -> float:
    """Mean over the queries of `metric(relevance in the order of the scores, best first)`."""
    if k < 1:
        raise ValueError(f"k must be 1 or more, not {k}")
    if not len(results):
        raise ValueError("there is no query to evaluate")
    values = []
    for query, (scores, relevance) in enumerate(results):
        scores, relevance = paired(scores, relevance)
        if (relevance < 0).any() or not relevance.any():
            raise ValueError(f"query {query} needs relevance of 0 or more, and one relevant document at least")
        values.append(metric(relevance[np.lexsort((relevance, -scores))]))
    return float(np.mean(values))
