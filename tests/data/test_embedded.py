"""The embedded corpora: the same on every machine, train apart from dev, and each with the property it is made for."""

from __future__ import annotations

import re
from collections import Counter, defaultdict

import pytest

from suzoo.data import (
    embedded,
    fingerprint,
    read_classes,
    read_dialogues,
    read_pairs,
    read_queries,
    read_seq2seq,
    read_texts,
)
from suzoo.data.embedded import _classes, _dialogues, _pairs_zh, _sentences, _titles
from suzoo.evaluation import generation_scores

LANGUAGES = ["zh", "en"]
FINGERPRINTS = {
    ("pairs_zh", "train"): "3f3f42c06d72ea37c7ff4f3240b77a4dc7125bc1877ce98785b22d2302f2c52c",
    ("pairs_zh", "dev"): "8ae9103ac40253a1fb3ac843de0e15efc16ba0a8cd497cfeb1910fcf03352327",
    ("pairs_en", "train"): "2b1b5afd748adf154ef35b213ecdd7353d22f7ef230d78c38795ae80387ca465",
    ("pairs_en", "dev"): "cb5fa23f107d25eea781d3ca17ae18c191401dae04b4193b66305896cf8414de",
    ("dialogues_zh", "train"): "59d897a7cc478ae405dac27659ec28c3067a09ddb23010c15386beef42047af2",
    ("dialogues_zh", "dev"): "038e6066619b6f830a55807308678c62617ad850783e0803b1e3adcc76e7b024",
    ("dialogues_en", "train"): "06a9f4b7c53c8e479a436d472fc5b69c61f4a0c807ac96fbe0d943dcc5e32fd1",
    ("dialogues_en", "dev"): "74137a3127640cbb00745a87db3280e9c234afc7751a6f77df9a5c8465c61a73",
    ("titles_zh", "train"): "48cad8805e957cc666879f939a66aa81d3ea078101daa86a00cd0f74cbeae610",
    ("titles_zh", "dev"): "e3ad37d2ba4a3700c58c81456dba93a33df74cd4006aa8eef478b09bd6116824",
    ("titles_en", "train"): "a13c762e07d91ddf80e6048a6d875f19e61aa8952b37dcf60dc8eee430766170",
    ("titles_en", "dev"): "71c6d8d12abd23099d03e4c1d92a885d808d340dca7850c0128693e3a6858af6",
    ("queries_zh", "train"): "f59f91e1549aa7307c6147cd8ac785e8ca61705863dd0e153d784df56be12721",
    ("queries_zh", "dev"): "3fe6013281713c01a9d607c460813b721ff4fca0d1b111208aeb945451945f62",
    ("queries_en", "train"): "7ca790dd83c19d296f2db6ab8fae8eac2f31aca568bf8da9d7ac2d4bb34aa608",
    ("queries_en", "dev"): "cc390c806409b2cccc9d0db0d205e218a3f7bf076486964e4892d6c91340fd5e",
    ("text_zh", "train"): "0adf5d47eea3e72359e82f96f2f95b267b5e09a5007b39b6c4e8531173d07eef",
    ("text_zh", "dev"): "c0e5ecdeaf4f99777d6350b626384f53fbf566085ae1dc8ea517fdb41e148e81",
    ("text_en", "train"): "256e2649ddcee41153d44b45c1eabc4b7d546d5af2690946d661323b78c72419",
    ("text_en", "dev"): "16f18bf4b4c16d2421ebdb920a0a4b8448826d5b9e5b0e5152f1f43ba6bfdf2e",
    ("typos_zh", "train"): "3ed64a9ae35d8fc9b3488ad34dac6c174319ee279f5ccd98a8638ee86fb5bb0b",
    ("typos_zh", "dev"): "eec70acceea9afbf5eebb4c6b437e5d5a96540845714d8ae82d405f54652f355",
    ("classes_zh", "train"): "2e771a22485061f58d840e1feeeb4fe2eb040a9d8da172b7e68024df5848dae3",
    ("classes_zh", "dev"): "0a05c19616c4c109a237f1b3717df3ef2d362e15cf65c8e710d4847a6bf3da5c",
}


def queries(source: str, split: str) -> list[tuple[str, str]]:
    """Every query with each of its positives; the reader puts them together."""
    return [(row.query, text) for row in read_queries(source, split=split) for text in row.positives]


READERS = {
    "pairs": read_pairs,
    "dialogues": read_dialogues,
    "titles": read_seq2seq,
    "queries": queries,
    "text": read_texts,
    "typos": read_seq2seq,
    "classes": read_classes,
}


def test_no_corpus_is_forgotten():
    assert set(FINGERPRINTS) == {(name, split) for name in embedded.CORPORA for split in embedded.SPLITS}


@pytest.mark.parametrize(("name", "split"), FINGERPRINTS)
def test_rows_are_the_same_on_every_machine(name, split):
    """`hash` of a string differs from process to process: a generator that leans on it fails here now and then."""
    assert fingerprint(embedded.load(name, split)) == FINGERPRINTS[name, split]


@pytest.mark.parametrize("name", embedded.CORPORA)
def test_the_reader_of_its_kind_reads_it_and_dev_is_not_in_train(name):
    read = READERS[name.rpartition("_")[0]]
    train, dev = (read(f"embedded:{name}", split=split) for split in embedded.SPLITS)
    rows = embedded.load(name)
    num_rows = len({str(row) for row in rows} if read is queries else rows)  # a positive counts once for its query
    assert len(train) == num_rows > 5 * len(dev) > 1000
    assert not {str(row) for row in train} & {str(row) for row in dev}


def mentions(text: str, value: str) -> bool:
    """As a word; English ones may be inside others ("tired")."""
    return bool(re.search(rf"(?<![a-zA-Z]){value}(?![a-zA-Z])", text))


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_answer_of_a_dialogue_stands_in_an_earlier_turn(language):
    data = _dialogues.LANGUAGES[language]
    values = [value for values in data.values.values() for value in values]
    kinds = Counter()
    for row in embedded.load(f"dialogues_{language}", "dev"):
        *history, question, answer = row["turns"]
        assert len(row["turns"]) % 2 == 0 and not [value for value in values if mentions(question, value)]
        if row["evidence"] == -1:
            assert answer == data.unknown
            kinds["unknown"] += 1
            continue
        (value,) = [value for value in values if mentions(answer, value)]
        assert mentions(history[row["evidence"]], value)
        # the speaker whom the question is about has said nothing newer on the matter
        (topic,) = [topic for topic, known in data.values.items() if value in known]
        newer = [
            turn for turn in history[row["evidence"] + 2 :: 2] if any(mentions(turn, v) for v in data.values[topic])
        ]
        assert not newer
        kinds["yours" if row["evidence"] % 2 else "mine"] += 1
        kinds["far"] += len(history) - row["evidence"] > 3
    assert min(kinds["unknown"], kinds["yours"], kinds["mine"]) > 20 and kinds["far"] > 100


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_last_question_alone_does_not_tell_the_answer(language):
    answers = defaultdict(Counter)
    for row in embedded.load(f"dialogues_{language}"):
        answers[row["turns"][-2]][row["turns"][-1]] += 1
    dev = [row["turns"] for row in embedded.load(f"dialogues_{language}", "dev")]
    assert sum(answers[turns[-2]].most_common(1)[0][0] == turns[-1] for turns in dev) / len(dev) < 0.2


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_title_is_not_the_first_clause_nor_the_first_company_and_city(language):
    data = _titles.LANGUAGES[language]
    rows = embedded.load(f"titles_{language}", "dev")
    clauses = [re.split("[，。,.]", row["source"])[0] for row in rows]
    options = {"zh": {}, "en": {"tokenize": str.split, "bleu_tokenize": "13a"}}[language]
    assert generation_scores(clauses, [row["target"] for row in rows], **options)["rouge_l"] < 0.3
    first_is_right = 0
    for row in rows:
        company, rival = sorted(
            (name for name in data.companies if name in row["source"]), key=lambda name: name not in row["target"]
        )
        city, home = sorted(
            (name for name in data.cities if name in row["source"]), key=lambda name: name not in row["target"]
        )
        assert company in row["target"] and city in row["target"]
        assert rival not in row["target"] and home not in row["target"]
        assert row["source"].index(home) < row["source"].index(city)
        first_is_right += row["source"].index(company) < row["source"].index(rival)
    assert 0.3 < first_is_right / len(rows) < 0.7


def test_typos_keep_the_length_and_leave_names_and_numbers_alone():
    counts = Counter()
    for split in embedded.SPLITS:
        for row in embedded.load("typos_zh", split):
            assert len(row["source"]) == len(row["target"])
            counts[sum(a != b for a, b in zip(row["source"], row["target"], strict=True))] += 1
            for (name,) in _pairs_zh.NAMES:
                assert (name in row["source"]) == (name in row["target"])
            assert re.sub(r"\D", "", row["source"]) == re.sub(r"\D", "", row["target"])
    total = sum(counts.values())
    assert set(counts) == {0, 1, 2} and 0.15 < counts[0] / total < 0.25 and counts[2] / total > 0.2


def test_every_misspelling_differs_in_one_character_and_is_no_word_itself():
    for word, wrong in _sentences.MISSPELLINGS.items():
        for other in wrong:
            assert sum(a != b for a, b in zip(word, other, strict=True)) == 1
            assert other not in _sentences.MISSPELLINGS


@pytest.mark.parametrize("language", LANGUAGES)
def test_text_has_no_repeated_sentence(language):
    texts = read_texts(f"embedded:text_{language}")
    assert len(set(texts)) == len(texts) == _sentences.SIZES["train"]


def test_confusions_cover_every_typo():
    confusions = embedded.confusions()
    for row in embedded.load("typos_zh", "dev"):
        for wrong, right in zip(row["source"], row["target"], strict=True):
            assert wrong == right or right in confusions[wrong]


def test_classes_are_long_tailed_and_a_rare_one_shares_sentences_with_its_neighbour():
    train, dev = (embedded.load("classes_zh", split) for split in embedded.SPLITS)
    counts, of_dev = (Counter(row["label"] for row in rows) for rows in (train, dev))
    assert max(counts.values()) == 40 * min(counts.values()) and set(of_dev.values()) == {24}
    assert len(counts) == len(of_dev) == 10
    labels = defaultdict(set)
    for row in train:
        labels[row["text"]].add(row["label"])
    assert {frozenset(found) for found in labels.values() if len(found) > 1} == {
        frozenset(pair) for pair, _ in _classes.PAIRS
    }
