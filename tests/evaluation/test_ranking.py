"""MRR, NDCG and recall against their definitions, scikit-learn and sentence-transformers."""

from __future__ import annotations

import random

import numpy as np
import pytest

from suzoo.evaluation import mrr_at_k, ndcg_at_k, recall_at_k
from tests.reference import evaluation as reference

METRICS = {"mrr_at_k": mrr_at_k, "ndcg_at_k": ndcg_at_k, "recall_at_k": recall_at_k}


def random_results(seed: int, num_scores: int, num_grades: int = 4) -> list[tuple[list, list]]:
    rng = random.Random(seed)
    results = []
    for _ in range(9):
        n = rng.randrange(1, 20)
        relevance = [max(0, rng.randrange(2 * num_grades) - num_grades) for _ in range(n - 1)] + [1]
        results.append(([rng.randrange(num_scores) / 3 for _ in range(n)], relevance))
    return results


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("k", [1, 3, 10, 100])
@pytest.mark.parametrize("num_scores", [2, 1000])  # many ties, few ties
def test_metric_equals_its_definition(name, k, num_scores):
    for seed in range(5):
        results = random_results(seed, num_scores)
        value = METRICS[name](results, k)
        assert type(value) is float
        assert value == pytest.approx(getattr(reference, name)(results, k), abs=1e-12)


@pytest.mark.parametrize("name", METRICS)
def test_a_model_that_scores_everything_alike_gets_no_credit_for_positives_that_stand_first(name):
    assert METRICS[name]([([0.5] * 4, [1, 0, 0, 0])], 1) == 0.0
    assert METRICS[name]([([0.9, 0.1, 0.2], [1, 0, 0])], 1) == 1.0


def test_hand_computed_values():
    results = [([3, 2, 1], [0, 1, 1]), ([1, 2], [1, 0])]
    assert mrr_at_k(results) == 0.5
    assert mrr_at_k(results, 1) == 0.0
    assert recall_at_k(results, 2) == pytest.approx((1 / 2 + 1) / 2)
    first = (1 / np.log2(3) + 1 / np.log2(4)) / (1 + 1 / np.log2(3))
    assert ndcg_at_k(results) == pytest.approx((first + 1 / np.log2(3)) / 2)


def test_ndcg_equals_scikit_learn_without_ties():
    from sklearn.metrics import ndcg_score

    rng = np.random.default_rng(1)
    for k in (1, 5, 10):
        relevance, scores = rng.integers(0, 4, (6, 12)), rng.normal(size=(6, 12))
        relevance[:, 0] = 1
        assert ndcg_at_k(list(zip(scores, relevance, strict=True)), k) == pytest.approx(
            ndcg_score(relevance, scores, k=k)
        )


def test_metrics_equal_those_of_sentence_transformers():
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

    results = [result for result in random_results(3, 10**6, num_grades=1)]
    queries = {f"q{q}": "" for q in range(len(results))}
    documents = {f"d{d}": "" for d in range(20)}
    relevant = {f"q{q}": {f"d{d}" for d, r in enumerate(rel) if r} for q, (_, rel) in enumerate(results)}
    evaluator = InformationRetrievalEvaluator(
        queries,
        documents,
        relevant,
        mrr_at_k=[5],
        ndcg_at_k=[5],
        accuracy_at_k=[5],
        precision_recall_at_k=[5],
        map_at_k=[5],
    )
    lists = [
        [{"corpus_id": f"d{d}", "score": score} for d, score in enumerate(results[int(query[1:])][0])]
        for query in evaluator.queries_ids
    ]
    theirs = evaluator.compute_metrics(lists)
    assert mrr_at_k(results, 5) == pytest.approx(theirs["mrr@k"][5])
    assert ndcg_at_k(results, 5) == pytest.approx(theirs["ndcg@k"][5])
    assert recall_at_k(results, 5) == pytest.approx(theirs["recall@k"][5])


@pytest.mark.parametrize(
    ("results", "k", "message"),
    [
        ([], 10, "no query"),
        ([([1.0], [1]), ([1.0, 2.0], [0, 0])], 10, "query 1 needs"),
        ([([1.0], [-1])], 10, "query 0 needs relevance of 0 or more"),
        ([([1.0], [1])], 0, "k must be 1 or more"),
        ([([float("nan")], [1])], 10, "finite"),
    ],
)
def test_what_cannot_be_ranked_is_refused(results, k, message):
    with pytest.raises(ValueError, match=message):
        ndcg_at_k(results, k)
