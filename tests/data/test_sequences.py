"""Readers of dialogues, and of sources with targets."""

from __future__ import annotations

import json

import pytest

from suzoo.data import DataError, SourceTarget, read_dialogues, read_seq2seq


def jsonl(path, *rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def test_dialogues_are_lists_of_turns_or_of_messages(tmp_path):
    path = jsonl(
        tmp_path / "x.jsonl", {"topic": "t", "turns": ["你好", "好", "再见"]}, {"topic": "t", "turns": ["a", "b"]}
    )
    assert read_dialogues(path) == [("你好", "好", "再见"), ("a", "b")]
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert read_dialogues(jsonl(tmp_path / "y.jsonl", {"messages": messages})) == [("a", "b")]
    messages = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    assert read_dialogues(jsonl(tmp_path / "z.jsonl", {"conversations": messages})) == [("a", "b")]
    path = jsonl(tmp_path / "w.jsonl", {"talk": ["a", "b"]})
    assert read_dialogues(path, columns=("turns=talk",), max_rows=1) == [("a", "b")]


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        (["a"], r"line 1: turns must be a list of two or more, not \['a'\]"),
        ("a b", "line 1: turns must be a list"),
        (["a", " "], "line 1: turn 2 is empty"),
        (["a", 5], "line 1: turn 2 is not a text but 5"),
        ([{"role": "user", "content": "a"}, "b"], "message 2 is not an object"),
        (
            [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}],
            "alternate between two roles, not go user, user",
        ),
        (
            [{"role": r, "content": "a"} for r in ("system", "user", "assistant")],
            "alternate between two roles, not go system, user, assistant",
        ),
        ([{"role": "user", "content": "a"}, {"role": "assistant"}], "line 1: the content of message 2 is missing"),
        ([{"role": "user", "content": ""}, {"role": "assistant", "content": "b"}], "the content of message 1 is empty"),
    ],
)
def test_what_is_no_dialogue_is_one_sentence(tmp_path, turns, message):
    path = jsonl(tmp_path / "x.jsonl", {"turns": turns})
    with pytest.raises(DataError, match=message) as caught:
        read_dialogues(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_bad_dialogues_can_be_skipped(tmp_path, caplog):
    path = jsonl(tmp_path / "x.jsonl", {"turns": ["a"]}, {"turns": ["a", "b"]})
    assert read_dialogues(path, skip_bad_rows=True) == [("a", "b")]
    assert "skipped 1 bad of 2 rows" in caplog.text


@pytest.mark.parametrize("header", ["title\tabstract\tkeywords", "tgt\tsrc\tx", "Summary\tArticle\tid"])
def test_source_and_target_are_recognised(tmp_path, header):
    path = tmp_path / "x.tsv"
    path.write_text(f"{header}\n短\t长的文章\tk\n", encoding="utf-8")
    assert read_seq2seq(path) == [SourceTarget("长的文章", "短")]


def test_other_languages_are_named_by_columns(tmp_path):
    path = tmp_path / "x.tsv"
    path.write_text("en\tzh\nHi.\t嗨。\n", encoding="utf-8")
    assert read_seq2seq(path, columns=("source=en", "target=zh")) == [SourceTarget("Hi.", "嗨。")]
    with pytest.raises(DataError, match="no column for source; it has en, zh: name one by --columns source="):
        read_seq2seq(path)
    path.write_text("text\ttitle\tabstract\na\tb\tc\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"several columns could be source: .* source=text or source=abstract"):
        read_seq2seq(path)
    assert read_seq2seq(path, columns={"source": "abstract"}) == [SourceTarget("c", "b")]
