"""The embedded sentence pairs are not to be solved by counting common words."""

from __future__ import annotations

import random
import re

import pytest

from suzoo.data import embedded, read_pairs
from suzoo.data.embedded import _pairs as generator
from suzoo.evaluation import spearman

LANGUAGES = ["zh", "en"]


def units(text: str, language: str, unit: str) -> set[str]:
    if unit == "character":
        return set(text)
    if language == "zh":  # no words without a segmenter: characters and their neighbours
        return set(text) | {text[i : i + 2] for i in range(len(text) - 1)}
    return set(re.findall(r"\w+", text.lower()))


def overlap(pair, language: str, unit: str) -> float:
    first, second = units(pair.text1, language, unit), units(pair.text2, language, unit)
    return len(first & second) / len(first | second)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("unit", ["character", "word"])
@pytest.mark.parametrize("split", embedded.SPLITS)
def test_common_words_do_not_tell_the_grade(language, unit, split):
    pairs = read_pairs(f"embedded:pairs_{language}", split=split)
    correlation = spearman([overlap(pair, language, unit) for pair in pairs], [pair.label for pair in pairs])
    assert abs(correlation) < 0.2  # promised: < .3


@pytest.mark.parametrize("language", LANGUAGES)
def test_train_and_dev_share_the_words_and_no_template(language):
    module = generator.LANGUAGES[language]
    seen = {split: set() for split in embedded.SPLITS}
    for frame in generator.FRAMES:
        for split in embedded.SPLITS:
            # a template is a sentence with its slots unfilled: compare the text, not the numbers
            seen[split] |= {
                module.ARRANGEMENTS[arrangement].format_map(
                    {"subject": module.CLAUSES[frame][clause][0], "said": module.CLAUSES[frame][clause][1]}
                    | {slot: f"<{slot}>" for slot in ("time", "place")}
                )
                for clause, arrangement in generator.templates(module, frame, split)
            }
    assert seen["train"] and seen["dev"] and not seen["train"] & seen["dev"]
    vocabulary = {
        split: {
            unit
            for pair in read_pairs(f"embedded:pairs_{language}", split=split)
            for text in (pair.text1, pair.text2)
            for unit in (text if language == "zh" else re.findall(r"\w+|\S", text.lower()))
        }
        for split in embedded.SPLITS
    }
    assert vocabulary["dev"] <= vocabulary["train"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_pair_of_dev_is_in_train_and_a_paraphrase_is_never_a_copy(language):
    train, dev = (read_pairs(f"embedded:pairs_{language}", split=split) for split in embedded.SPLITS)
    assert not {frozenset((p.text1, p.text2)) for p in train} & {frozenset((p.text1, p.text2)) for p in dev}
    assert all(pair.text1 != pair.text2 for pair in train + dev)


def test_what_the_grades_mean():
    module = generator.LANGUAGES["en"]
    event = generator.Event("transfer", sense=2, a=0, b=1, number=1, thing=0, time=0, place=0, happened=True)
    tellings = [generator.Telling(clause, 3, 0, (clause % 2,) * 6) for clause in range(4)]
    assert [generator.tell(module, event, telling) for telling in tellings] == [
        "Yesterday at school, Alice sold three books to Bruno.",
        "The day before today in the classroom, Bruno purchased 3 volumes from Alice.",
        "Yesterday at school, three books were sold to Bruno by Alice.",
        "The day before today in the classroom, Alice was the one who auctioned 3 volumes to Bruno.",
    ]
    differing = {5: 0, 4: 1, 3: 1, 2: 2, 1: 5, 0: 8}
    rng = random.Random(0)
    for grade, most in differing.items():
        for _ in range(50):
            other = generator._change(rng, module, event, grade)
            fields = {name for name in generator.Event.__slots__ if getattr(other, name) != getattr(event, name)}
            assert len(fields) <= most and bool(fields) == (grade < 5)
            if grade == 2:
                assert fields in ({"a", "b"}, {"happened"})
            if grade == 1:
                assert not fields & {"a", "b", "time", "place"} and fields & {"frame", "sense"}
            if grade == 0:
                assert fields >= {"a", "b", "time", "place"}
