"""Scores of generated text against the definitions, the packages the articles used, and published examples."""

from __future__ import annotations

import math
import random

import pytest
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

from suzoo.evaluation import (
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
from tests.reference import text as reference

# titles and generated titles printed in kexue.fm/archives/8209
TITLES = [
    ("超立方体网络的3路结构连通度及子结构连通度", "基于n维超立方体网络结构连通性和子结构连通性评价研究"),
    ("基于惩罚误差矩阵的同步预测无线体域网节能方法", "基于惩罚误差矩阵的自适应三次指数平滑算法"),
    ("车联网环境下基于节点认知交互的路由算法", "基于车辆节点认知交互的路由算法"),
    ("基于迭代自适应方法的近场源二维参数联合估计", "基于nf-iaa的近场迭代自适应算法"),
    ("基于活跃时间分组的软件众包工人选择机制", "基于活跃时间分组的软件众包工人选择机制"),
]
REFERENCES, PREDICTIONS = zip(*TITLES, strict=True)


def random_texts(seed: int, length: int = 14) -> tuple[str, str]:
    rng = random.Random(seed)
    make = lambda: "".join(rng.choice("的一是在abAB1 ") for _ in range(rng.randrange(1, length)))  # noqa: E731
    prediction, wanted = make(), make()
    return prediction, wanted if wanted.strip() else "的"


def test_article_scores_of_the_titles_of_the_article():
    scores = article_scores(PREDICTIONS, REFERENCES)
    # measured with rouge==1.0.0, whose formula adds 1e-8 to a denominator, and nltk==3.2.5
    assert scores["rouge_1"] == pytest.approx(0.700424059913, abs=1e-8)
    assert scores["rouge_2"] == pytest.approx(0.599842337379, abs=1e-8)
    assert scores["rouge_l_set"] == pytest.approx(0.651308711989, abs=1e-8)
    assert scores["bleu_mean"] == pytest.approx(0.523826994671, abs=1e-12)


def test_generation_scores_of_the_titles_of_the_article():
    scores = generation_scores(PREDICTIONS, REFERENCES)
    assert scores["rouge_l"] == pytest.approx(0.657890123261, abs=1e-8)
    assert scores["bleu"] == pytest.approx(0.5424148355, abs=1e-9)
    assert generation_scores(PREDICTIONS, REFERENCES, bleu_tokenize="char")["bleu"] == pytest.approx(
        0.541814825, abs=1e-9
    )
    assert all(type(value) is float for value in scores.values())


@pytest.mark.parametrize(
    ("prediction", "wanted", "value"),
    # frozen from an independent re-implementation that equals rouge==1.0.0 on 400 random pairs
    [
        ("abcab", "bacba", 2 / 3),
        ("中文.英文a", "文中a.英", 1.0),
        ("1..2 a", "a 2.1", 4 / 7),
        ("多个字字多个", "个多字多字", 2 / 3),
    ],
)
def test_rouge_l_of_the_articles_is_over_sets_and_sentences(prediction, wanted, value):
    assert article_scores([prediction], [wanted])["rouge_l_set"] == pytest.approx(value)


def test_article_scores_equal_the_procedure_written_out():
    for seed in range(200):
        prediction, wanted = random_texts(seed)
        scores = article_scores([prediction], [wanted])
        if not prediction.strip():
            assert set(scores.values()) == {0.0}
            continue
        assert scores["rouge_1"] == pytest.approx(reference.article_rouge_n(prediction, wanted, 1), abs=1e-12)
        assert scores["rouge_2"] == pytest.approx(reference.article_rouge_n(prediction, wanted, 2), abs=1e-12)
        assert scores["bleu_mean"] == pytest.approx(reference.article_bleu(prediction, wanted), abs=1e-12)
        tokens = [" ".join(text).lower().split(" ") for text in (wanted, prediction)]
        nltk = sentence_bleu(tokens[:1], tokens[1], smoothing_function=SmoothingFunction().method1)
        assert scores["bleu_mean"] == pytest.approx(nltk, abs=1e-12)


def test_standard_rouge_l_equals_its_definition():
    for seed in range(60):
        prediction, wanted = random_texts(seed, length=9)
        assert generation_scores([prediction], [wanted])["rouge_l"] == pytest.approx(
            reference.rouge_l(prediction, wanted)
        )


def test_bleu_of_a_text_shorter_than_four_characters_is_not_zero():
    assert article_scores(["深度"], ["深度学习"])["bleu_mean"] == pytest.approx(0.116333693845, abs=1e-12)


def test_an_empty_prediction_counts_zero_in_the_mean():
    half = article_scores(["深度学习", " "], ["深度学习", "深度学习"])
    assert half == pytest.approx(dict.fromkeys(half, 0.5))
    assert generation_scores(["深度学习", ""], ["深度学习", "深度学习"])["rouge_l"] == pytest.approx(0.5)


def test_a_tokenizer_that_drops_chinese_is_refused_instead_of_scoring_zero():
    from rouge_score.tokenizers import DefaultTokenizer

    tokenize = DefaultTokenizer(use_stemmer=False).tokenize
    with pytest.raises(ValueError, match="leaves nothing of '深度学习'"):
        generation_scores(["深度学习"], ["深度学习"], tokenize=tokenize)
    scores = generation_scores(["deep nets learn"], ["deep nets learn fast"], tokenize=tokenize, bleu_tokenize="13a")
    assert scores["rouge_1"] == pytest.approx(2 * 1 * 0.75 / 1.75)


@pytest.mark.parametrize("function", [article_scores, generation_scores])
@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        ([], [], "one at least, not 0 for 0"),
        (["a"], ["a", "b"], "not 2 for 1"),
        (["a", "b"], ["a", " "], "reference 1 is blank"),
        ("ab", "ab", "lists of texts"),
    ],
)
def test_what_cannot_be_scored_is_refused(function, predictions, references, message):
    with pytest.raises(ValueError, match=message):
        function(predictions, references)


def test_distinct_n_of_the_corpus_and_of_the_mean_text():
    texts = ["哈哈哈", "好的好的"]
    assert distinct_n_corpus(texts, 1) == pytest.approx(3 / 7)
    assert distinct_n_corpus(texts, 2) == pytest.approx(3 / 5)
    assert distinct_n_mean(texts, 1) == pytest.approx((1 / 3 + 2 / 4) / 2)
    assert distinct_n_mean(texts, 2) == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert distinct_n_corpus(["a b a"], 1, tokenize=str.split) == pytest.approx(2 / 3)
    assert distinct_n_corpus(["哈"], 2) == distinct_n_mean(["哈"], 2) == distinct_n_corpus([], 1) == 0.0
    # twice the same texts: nothing new for the corpus, the same for the mean
    assert distinct_n_corpus(texts * 2, 1) == pytest.approx(3 / 14) and distinct_n_mean(texts * 2, 1) == pytest.approx(
        5 / 12
    )
    with pytest.raises(ValueError, match="n must be"):
        distinct_n_corpus(texts, 0)
    with pytest.raises(ValueError, match="no text"):
        distinct_n_mean([], 1)


def test_perplexity_of_the_corpus_and_of_the_mean_text():
    nlls, num_tokens = [2.0, 1.0, 4.0], [4, 2, 2]
    assert perplexity(nlls, num_tokens) == pytest.approx(2.39887529397)
    assert mean_perplexity(nlls, num_tokens) == pytest.approx((math.exp(2 / 4) + math.exp(1 / 2) + math.exp(4 / 2)) / 3)
    # a uniform guess among 8 characters is 3 bits for each, whatever the tokens are
    assert bits_per_character([math.log(8) * 10, math.log(8) * 2], [10, 2]) == pytest.approx(3.0)
    assert perplexity([1e6], [1]) == math.inf
    with pytest.raises(ValueError, match="sum above 0"):
        perplexity([0.0], [0])
    with pytest.raises(ValueError, match="there are 2 negative log-likelihoods and 1 numbers of tokens"):
        perplexity([1.0, 2.0], [1])


def test_word_error_rate_equals_its_definition():
    for seed in range(40):
        prediction, wanted = random_texts(seed, length=8)
        expected = reference.edit_distance(prediction.split(), wanted.split()) / len(wanted.split())
        assert word_error_rate([prediction], [wanted]) == pytest.approx(expected)
        predicted, characters_wanted = characters(prediction), characters(wanted)
        expected = reference.edit_distance(predicted, characters_wanted) / len(characters_wanted)
        assert word_error_rate([prediction], [wanted], tokenize=characters) == pytest.approx(expected)
    # over the corpus, not the mean of the sentences; it may be above 1
    assert word_error_rate(["a b c d", "x"], ["a b c d", "y"]) == pytest.approx(1 / 5)
    assert word_error_rate(["a b c", ""], ["d", "e"]) == 2.0
