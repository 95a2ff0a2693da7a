"""Confusion sets."""

from __future__ import annotations

import json

import pytest

from suzoo.data import DataError, read_confusions


def test_files_of_both_forms_are_put_together(tmp_path):
    sound, shape = tmp_path / "sound.json", tmp_path / "shape.txt"
    sound.write_text(json.dumps({"做": ["作", "坐", "作"], "天": []}, ensure_ascii=False, indent=1), encoding="utf-8")
    shape.write_text("做\t做故坐\n\n天\t夫 无\n", encoding="utf-8")
    assert read_confusions(sound, shape) == {"做": ["作", "坐", "故"], "天": ["夫", "无"]}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.json", "[1]", "is a JSON list, not an object"),
        ("x.json", '{"做": ', "is not JSON"),
        ("x.json", '{"做": "作坐"}', "the confusions of '做' are not a list of characters but '作坐'"),
        ("x.json", '{"做": [1]}', "not a list of characters"),
        ("x.txt", "做\t作\n天 夫\n", "line 2 is not a character, a tab"),
        ("x.txt", "做\t作\n天\t夫\n".encode("gb18030"), "line 1: byte 0xd7"),
    ],
)
def test_other_forms_are_refused_in_one_sentence(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message) as caught:
        read_confusions(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(DataError, match="there is no file"):
        read_confusions(tmp_path / "none.json")
