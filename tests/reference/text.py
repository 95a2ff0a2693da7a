"""Scores of generated text by their definitions, and the procedure of the articles written out.

The articles join a text's characters by blanks and give that to two packages; the quirks of those are spelt out here.
"""

from __future__ import annotations

import itertools
import math


def f1(hits: float, num_predicted: int, num_wanted: int) -> float:
    if not hits:
        return 0.0
    precision, recall = hits / num_predicted, hits / num_wanted
    return 2 * precision * recall / (precision + recall)


def clipped_hits(predicted: list, wanted: list) -> int:
    return sum(min(predicted.count(gram), wanted.count(gram)) for gram in set(predicted))


def ngrams(tokens: list[str], n: int) -> list[tuple]:
    return [tuple(tokens[i : i + n]) for i in range(len(tokens)) if i + n <= len(tokens)]


def package_sentences(text: str) -> list[list[str]]:
    """rouge==1.0.0: sentences end at '.', blanks are squeezed; the text is already characters joined by blanks."""
    joined = " ".join(text).lower()
    return [" ".join(sentence.split()).split(" ") for sentence in joined.split(".") if len(sentence) > 0]


def article_rouge_n(prediction: str, reference: str, n: int) -> float:
    predicted, wanted = (
        ngrams([word for sentence in package_sentences(text) for word in sentence if word], n)
        for text in (prediction, reference)
    )
    return f1(clipped_hits(predicted, wanted), len(predicted), len(wanted))


def lcs_length(first: list[str], second: list[str]) -> int:
    if not first or not second:
        return 0
    if first[-1] == second[-1]:
        return lcs_length(first[:-1], second[:-1]) + 1
    return max(lcs_length(first[:-1], second), lcs_length(first, second[:-1]))


def rouge_l(prediction: str, reference: str) -> float:
    """Standard, over characters."""
    predicted, wanted = ([c for c in text if not c.isspace()] for text in (prediction, reference))
    length = max(
        (
            k
            for k in range(len(predicted) + 1)
            for kept in itertools.combinations(predicted, k)
            if is_inside(kept, wanted)
        ),
        default=0,
    )
    return f1(length, len(predicted), len(wanted))


def is_inside(part: tuple, whole: list) -> bool:
    """part is a subsequence of whole"""
    remaining = iter(whole)
    return all(item in remaining for item in part)


def edit_distance(first: list[str], second: list[str]) -> int:
    if not first or not second:
        return len(first) + len(second)
    if first[0] == second[0]:
        return edit_distance(first[1:], second[1:])
    return 1 + min(
        edit_distance(first[1:], second), edit_distance(first, second[1:]), edit_distance(first[1:], second[1:])
    )


def article_bleu(prediction: str, reference: str) -> float:
    predicted, wanted = (" ".join(text).lower().split(" ") for text in (prediction, reference))
    product = 1.0
    for n in range(1, 5):
        hits, count = clipped_hits(ngrams(predicted, n), ngrams(wanted, n)), max(1, len(ngrams(predicted, n)))
        if n == 1 and hits == 0:
            return 0.0
        product *= (hits if hits else 0.1) / count
    brevity = 1.0 if len(predicted) > len(wanted) else math.exp(1 - len(wanted) / len(predicted))
    return brevity * product**0.25
