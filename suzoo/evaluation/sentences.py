"""The numbers of sentence encoders and cross-encoders, from what their `encode` and `predict` return."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from suzoo.distributed import gather_numbers, rank, world_size
from suzoo.evaluation.correlation import pearson, spearman
from suzoo.evaluation.ranking import RANKING_METRICS, metrics_of_ranks, ranks_of_positives
from suzoo.evaluation.threshold import best_threshold

# texts encoded, or pairs scored, at once: tokens and vectors of more are never in memory together
CHUNK = 8192
# numbers of a block of scores: as many queries at once as give that many with all documents
BLOCK = 1 << 24


def pair_cosines(encode: Callable[..., np.ndarray], pairs: Sequence[Any], *, share: bool = False) -> np.ndarray:
    """Cosine (N,) of every pair's texts (`.text1`, `.text2`); `encode(texts, normalize=True)` gives unit vectors.

    Args:
        share: every rank encodes its part of the pairs and gets the cosines of all. Not where `encode` itself needs all
            ranks, as a sharded model's does.
    """
    first, step = (rank(), world_size()) if share else (0, 1)
    cosines = []
    for begin in range(first, len(pairs), step * CHUNK):
        part = pairs[begin : begin + step * CHUNK : step]
        vectors = encode([text for pair in part for text in (pair.text1, pair.text2)], normalize=True)
        cosines.append((vectors[0::2] * vectors[1::2]).sum(1))
    mine = np.concatenate(cosines) if cosines else np.zeros(0, dtype=np.float32)
    return interleaved(mine, len(pairs)) if share else mine


def interleaved(mine: np.ndarray, length: int) -> np.ndarray:
    """Numbers (length,) of all ranks in order, where rank r has those at r, r + ranks, …"""
    whole = np.empty(length, dtype=mine.dtype)
    whole[np.concatenate([np.arange(r, length, world_size()) for r in range(world_size())])] = gather_numbers(mine)
    return whole


def pair_metrics(scores: Sequence[float] | np.ndarray, labels: Sequence[float] | np.ndarray) -> dict[str, float]:
    """Spearman and Pearson; for labels of two values also the best accuracy and the threshold that gives it."""
    values = {"spearman": spearman(scores, labels), "pearson": pearson(scores, labels)}
    labels = np.asarray(labels)
    if len(np.unique(labels)) == 2:
        positive = labels == labels.max()
        values["accuracy"], values["threshold"] = best_threshold(scores, positive)
    return values


def retrieval_metrics(
    encode: Callable[..., np.ndarray], queries: Sequence[Any], *, share: bool = False
) -> dict[str, float]:
    """MRR@10, NDCG@10, recall@1 and @10 of every query (`.query`, `.positives`, `.negatives`) against all documents.

    The documents are the positives and negatives of all queries, each once, so the numbers fall with their number.
    Memory holds the vectors of all texts and a block of scores.

    Args:
        share: every rank encodes its part of the texts and ranks its part of the queries; see `pair_cosines`.
    """
    documents = list(dict.fromkeys(text for query in queries for text in (*query.positives, *query.negatives)))
    place = {text: i for i, text in enumerate(documents)}
    vectors_ND = _encoded(encode, documents, share)
    queries_QD = _encoded(encode, [query.query for query in queries], share)
    first, step = (rank(), world_size()) if share else (0, 1)
    mine = range(first, len(queries), step)
    size = max(1, BLOCK // max(1, len(documents)))
    values = []
    for begin in range(0, len(mine), size):
        rows = mine[begin : begin + size]
        scores_BN = queries_QD[rows.start : rows.stop : rows.step] @ vectors_ND.T
        if not np.isfinite(scores_BN).all():
            raise ValueError("scores must be finite: the model encodes a text to a vector with NaN or infinity")
        for row, scores_N in zip(rows, scores_BN, strict=True):
            positives = np.array([place[text] for text in dict.fromkeys(queries[row].positives)])
            ranks = ranks_of_positives(scores_N, positives)
            values.append([metrics_of_ranks([ranks])[name] for name in RANKING_METRICS])
    values = np.array(values, dtype=np.float64).reshape(-1, len(RANKING_METRICS))
    if share:
        values = np.stack([interleaved(column, len(queries)) for column in values.T], axis=1)
    if not len(values):
        raise ValueError("there is no query to evaluate")
    return dict(zip(RANKING_METRICS, values.mean(0).tolist(), strict=True))


def _encoded(encode: Callable[..., np.ndarray], texts: Sequence[str], share: bool) -> np.ndarray:
    """Unit vectors (N, D) of texts, a chunk after the other, each rank its share of them."""
    count = -(-len(texts) // world_size()) if share else len(texts)
    begin = rank() * count if share else 0
    chunks = [
        encode(texts[start : min(start + CHUNK, begin + count)], normalize=True)
        for start in range(begin, min(begin + count, len(texts)), CHUNK)
    ]
    mine = np.concatenate(chunks) if chunks else encode(texts[:0], normalize=True)
    return gather_numbers(mine) if share else mine


def reranking_metrics(predict: Callable[..., np.ndarray], queries: Sequence[Any]) -> dict[str, float]:
    """The same numbers with each query's own positives and negatives alone, scored by `predict(pairs)`."""
    found = []
    for part in _parts(queries):
        scores = predict([(query.query, text) for query in part for text in (*query.positives, *query.negatives)])
        start = 0
        for query in part:
            end = start + len(query.positives) + len(query.negatives)
            found.append(ranks_of_positives(scores[start:end], np.arange(len(query.positives))))
            start = end
        if not np.isfinite(scores).all():
            raise ValueError("scores must be finite: the model gives a pair NaN or infinity")
    return metrics_of_ranks(found)


def _parts(queries: Sequence[Any]) -> Iterator[list[Any]]:
    """Queries that have `CHUNK` documents together."""
    part, size = [], 0
    for query in queries:
        part.append(query)
        size += len(query.positives) + len(query.negatives)
        if size >= CHUNK:
            yield part
            part, size = [], 0
    if part:
        yield part
