"""Retrieval by blocks and ranks, and dev pairs shared over ranks, against full lists on one process."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from suzoo.data import Pair, Ranked
from suzoo.evaluation import mrr_at_k, ndcg_at_k, pair_cosines, recall_at_k, retrieval_metrics, sentences
from suzoo.evaluation.ranking import metrics_of_ranks, ranks_of_positives
from suzoo.evaluation.sentences import reranking_metrics
from tests.ranks import run_ranks

METRICS = {
    "mrr@10": lambda results: mrr_at_k(results, 10),
    "ndcg@10": lambda results: ndcg_at_k(results, 10),
    "recall@1": lambda results: recall_at_k(results, 1),
    "recall@10": lambda results: recall_at_k(results, 10),
}


def encode(texts, normalize: bool):
    """Vectors of few values, so that many scores are equal; `same…` have all the same."""
    vectors = [
        np.frombuffer(hashlib.sha256(b"same" if text.startswith("same") else text.encode()).digest()[:3], np.uint8) % 2
        for text in texts
    ]
    return np.array(vectors, dtype=np.float32).reshape(-1, 3)


def ranked(num_queries: int = 23, kind: str = "") -> list[Ranked]:
    return [
        Ranked(
            f"query {n}",
            tuple(f"{kind}document {n * 7 % 40 + place}" for place in range(1 + n % 13)),
            tuple(f"{kind}document {n + place + 60}" for place in range(n % 3)),
        )
        for n in range(num_queries)
    ]


def full_lists(queries: list[Ranked]) -> dict[str, float]:
    documents = list(dict.fromkeys(text for query in queries for text in (*query.positives, *query.negatives)))
    vectors, results = encode(documents, True), []
    for query in queries:
        relevance = [float(text in query.positives) for text in documents]
        results.append((vectors @ encode([query.query], True)[0], relevance))
    return {name: metric(results) for name, metric in METRICS.items()}


@pytest.mark.parametrize("block", [1, 200, 1 << 24])
@pytest.mark.parametrize("chunk", [7, 8192])
@pytest.mark.parametrize("kind", ["", "same "])
def test_retrieval_by_blocks_equals_full_lists(monkeypatch, block, chunk, kind):
    monkeypatch.setattr(sentences, "BLOCK", block)
    monkeypatch.setattr(sentences, "CHUNK", chunk)
    queries = ranked(kind=kind)
    assert retrieval_metrics(encode, queries) == pytest.approx(full_lists(queries), abs=1e-12)


@pytest.mark.parametrize("num_values", [1, 2, 5, 10**6])
def test_ranks_without_sorting_are_those_of_sorting(num_values):
    rng = np.random.default_rng(num_values)
    for _ in range(50):
        scores = rng.integers(0, num_values, 30).astype(np.float32)
        positives = rng.permutation(30)[: rng.integers(1, 15)]
        relevance = np.zeros(30)
        relevance[positives] = 1
        order = np.lexsort((relevance, -scores))
        expected = np.flatnonzero(relevance[order]) + 1
        ranks = ranks_of_positives(scores, positives)
        assert ranks.tolist() == expected.tolist()
        for name, metric in METRICS.items():
            assert metrics_of_ranks([ranks])[name] == pytest.approx(metric([(scores, relevance)]), abs=1e-12)


def test_reranking_takes_each_querys_own_documents(monkeypatch):
    def predict(pairs):
        return np.array([(len(query) * len(text)) % 5 for query, text in pairs], dtype=np.float32)

    queries = ranked()
    results = [
        (
            predict([(query.query, text) for text in (*query.positives, *query.negatives)]),
            [1.0] * len(query.positives) + [0.0] * len(query.negatives),
        )
        for query in queries
    ]
    expected = {name: metric(results) for name, metric in METRICS.items()}
    for chunk in (1, 10, 8192):
        monkeypatch.setattr(sentences, "CHUNK", chunk)
        assert reranking_metrics(predict, queries) == pytest.approx(expected, abs=1e-12)


def test_what_is_not_finite_or_not_there_is_refused():
    with pytest.raises(ValueError, match="NaN or infinity"):
        retrieval_metrics(lambda texts, normalize: np.full((len(texts), 2), np.nan), ranked())
    with pytest.raises(ValueError, match="NaN or infinity"):
        reranking_metrics(lambda pairs: np.full(len(pairs), np.nan), ranked())
    with pytest.raises(ValueError, match="no query"):
        retrieval_metrics(encode, [])


def shared(num_queries: int):
    calls = []

    def counting(texts, normalize):
        calls.append(len(texts))
        return encode(texts, normalize)

    sentences.CHUNK = 5
    queries = ranked(num_queries)
    pairs = [Pair(f"a {n}", f"b {n}", 0.0) for n in range(2 * num_queries - 1)]
    found = retrieval_metrics(counting, queries, share=True), pair_cosines(counting, pairs, share=True).tolist()
    return found, sum(calls)


@pytest.mark.parametrize("num_queries", [1, 23])
def test_ranks_share_the_work_and_have_equal_numbers(num_queries, monkeypatch):
    monkeypatch.setattr(sentences, "CHUNK", sentences.CHUNK)  # put back after shared()
    alone, all_texts = shared(num_queries)
    assert alone[0] == pytest.approx(full_lists(ranked(num_queries)))
    found = run_ranks(shared, num_queries)
    assert [numbers for numbers, _ in found] == [alone, alone]
    assert sum(count for _, count in found) == all_texts
    if num_queries > 1:
        assert max(count for _, count in found) < 0.6 * all_texts
