"""Evaluation by its definitions, in loops."""

from __future__ import annotations

import math


def ranks(values: list[float]) -> list[float]:
    """1 for the smallest; equal values share the mean of the ranks they take."""
    return [sum(v < value for v in values) + (sum(v == value for v in values) + 1) / 2 for value in values]


def pearson(xs: list[float], ys: list[float]) -> float:
    x_mean, y_mean = sum(xs) / len(xs), sum(ys) / len(ys)
    products = sum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True))
    return products / math.sqrt(sum((x - x_mean) ** 2 for x in xs) * sum((y - y_mean) ** 2 for y in ys))


def spearman(xs: list[float], ys: list[float]) -> float:
    return pearson(ranks(xs), ranks(ys))


def accuracy_at(threshold: float, scores: list[float], labels: list[int]) -> float:
    return sum((score >= threshold) == bool(label) for score, label in zip(scores, labels, strict=True)) / len(scores)


def best_accuracy(scores: list[float], labels: list[int]) -> float:
    return max(accuracy_at(threshold, scores, labels) for threshold in [*scores, math.inf])


def rank_list(scores: list[float], relevance: list[float]) -> list[float]:
    """Relevance by falling score; the worst possible order among equal scores."""
    return [r for _, r in sorted(zip(scores, relevance, strict=True), key=lambda item: (-item[0], item[1]))]


def mrr_at_k(results: list[tuple[list, list]], k: int) -> float:
    total = 0.0
    for scores, relevance in results:
        for rank, grade in enumerate(rank_list(scores, relevance)[:k], start=1):
            if grade > 0:
                total += 1 / rank
                break
    return total / len(results)


def dcg(grades: list[float]) -> float:
    return sum(grade / math.log2(rank + 1) for rank, grade in enumerate(grades, start=1))


def ndcg_at_k(results: list[tuple[list, list]], k: int) -> float:
    return sum(
        dcg(rank_list(scores, relevance)[:k]) / dcg(sorted(relevance, reverse=True)[:k])
        for scores, relevance in results
    ) / len(results)


def recall_at_k(results: list[tuple[list, list]], k: int) -> float:
    shares = []
    for scores, relevance in results:
        found = [grade for grade in rank_list(scores, relevance)[:k] if grade > 0]
        shares.append(len(found) / len([grade for grade in relevance if grade > 0]))
    return sum(shares) / len(shares)
