"""Reader of texts with their classes."""

from __future__ import annotations

import json

import pytest

from suzoo.data import Classified, DataError, class_names, read_classes


def jsonl(path, *rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_class_is_a_name_a_number_or_a_list(tmp_path):
    path = jsonl(tmp_path / "x.jsonl", {"text": "a", "label": " news "}, {"text": "b", "label": "sport"})
    assert read_classes(path) == [Classified("a", ("news",)), Classified("b", ("sport",))]
    path = jsonl(tmp_path / "y.jsonl", {"sentence": "a", "label": 10}, {"sentence": "b", "label": 2})
    assert class_names(read_classes(path)) == ["2", "10"]
    path = jsonl(tmp_path / "z.jsonl", {"text": "a", "labels": ["joy", "love"]}, {"text": "b", "labels": []})
    assert read_classes(path) == [Classified("a", ("joy", "love")), Classified("b", ())]
    (tmp_path / "w.tsv").write_text("t\tc\na\t1\nb\tten\n")
    assert class_names(read_classes(tmp_path / "w.tsv", columns=("text=t", "label=c"))) == ["1", "ten"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "a", "label": None}, "label is missing"),
        ({"text": "a", "label": 0.5}, "neither the name of a class nor a whole number, but 0.5"),
        ({"text": "a", "label": " "}, "neither the name of a class"),
        ({"text": "a", "label": ["x", "x"]}, "names a class twice: x, x"),
        ({"text": "", "label": "x"}, "text is empty"),
    ],
)
def test_a_bad_row_is_one_sentence_with_its_place(tmp_path, row, message):
    with pytest.raises(DataError, match=f"line 2: .*{message}"):
        read_classes(jsonl(tmp_path / "x.jsonl", {"text": "a", "label": "x"}, row))


def test_one_class_is_nothing_to_learn():
    with pytest.raises(DataError, match="the rows has 1 class, news: there is nothing to tell apart"):
        class_names([Classified("a", ("news",))], "the rows")
    with pytest.raises(DataError, match="no classes: there is nothing"):
        class_names([Classified("a", ())])
