"""Duplicates within training data and between it and dev data, whatever kind the rows are and wherever they lie."""

from __future__ import annotations

import json
import logging

import pytest

from suzoo.data import (
    Classified,
    Pair,
    Ranked,
    SourceTarget,
    count_duplicates,
    log_duplicates,
    read_dialogues,
    read_pairs,
    readers,
)

ROWS = {
    "pairs": lambda a, b: Pair(a, b, float(len(a))),
    "classes": lambda a, b: Classified(a + b, (a,)),
    "sequences": SourceTarget,
    "queries": lambda a, b: Ranked(a, (b,), ("x",)),
    "dialogues": lambda a, b: (a, b),
    "texts": lambda a, b: f"{a} {b}",
}


@pytest.mark.parametrize("kind", ROWS)
def test_rows_with_the_same_texts_are_counted(kind):
    make = ROWS[kind]
    train = [make(*texts) for texts in ("ab", "ac", "ab", "cd", "ab")]
    dev = [make(*texts) for texts in ("ab", "ab", "zz", "ca", "cd")]
    assert count_duplicates(train, dev) == (2, 3)
    assert count_duplicates(dev, train) == (1, 4)


def test_labels_do_not_count_and_the_border_between_texts_does():
    assert count_duplicates([Pair("a", "b", 0.0), Pair("a", "b", 1.0)], [Pair("a", "b", 2.0)]) == (1, 1)
    assert count_duplicates([Pair("ab", "c", 0.0)], [Pair("a", "bc", 0.0)]) == (0, 0)
    assert count_duplicates([("ab", "c")], [("a", "bc")]) == (0, 0)


@pytest.mark.parametrize("read", [read_pairs, read_dialogues])
def test_rows_of_the_cache_have_the_same_hashes(tmp_path, monkeypatch, caplog, read):
    monkeypatch.setenv("SUZOO_CACHE", str(tmp_path / "cache"))
    rows = [{"text1": text, "text2": "x", "label": 1, "turns": [text, "x"]} for text in ("a", "b", "a", "文")]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    in_memory = read(tmp_path / "x.jsonl")
    monkeypatch.setattr(readers, "IN_MEMORY_BYTES", 0)
    stored = read(tmp_path / "x.jsonl")
    assert type(stored) is not type(in_memory)
    for train, dev in ((stored, in_memory), (in_memory, stored), (stored, stored)):
        assert count_duplicates(train, dev) == (1, 4)
    with caplog.at_level(logging.INFO):
        log_duplicates(stored, in_memory)
    assert "1 of 4 training rows repeat the texts" in caplog.text
    assert "4 of 4 dev rows have the texts of a training row" in caplog.text
    caplog.clear()
    log_duplicates(in_memory[1:2], in_memory[3:])
    assert not caplog.text
