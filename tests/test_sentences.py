"""Docstrings are for readers whose first language is not English: no sentence is long."""

from __future__ import annotations

import pytest

from tests.pages import ROOT
from tests.sentences import docstrings, num_words, sentences

MOST_WORDS = 40


@pytest.mark.parametrize("folder", ["suzoo", "training", "hub_scripts"])
def test_no_sentence_of_a_docstring_is_long(folder):
    found = [
        (num_words(sentence), path.relative_to(ROOT).as_posix(), name, sentence)
        for path in sorted((ROOT / folder).rglob("*.py"))
        for name, text in docstrings(path)
        for sentence in sentences(text)
    ]
    assert len(found) > 20
    assert [sentence for sentence in found if sentence[0] > MOST_WORDS] == []


def test_what_counts_as_a_sentence():
    text = """Does it. It needs `no arguments at all`, as e.g. numbers like 3.5 do not end a sentence:

        loss = code(that, is, no, prose) and would never end

    Args:
        first, second: one thing; another. A second sentence
            that goes on.
        third: nothing.

    - an item
    - and another one

    kind   columns of a table   are no prose
    """
    found = [sentence for sentence in sentences(text.replace("\n    ", "\n"))]
    assert found == [
        "Does it.",
        "It needs `no arguments at all`, as e.g. numbers like 3.5 do not end a sentence:",
        "one thing; another.",
        "A second sentence that goes on.",
        "nothing.",
        "- an item",
        "- and another one",
    ]
    assert num_words("It takes `a long piece of code` and 3.5 + x_i = 7, a number.") == 6
