"""Messages of the command in Chinese: the table is what the code says, and what users see is translated."""

from __future__ import annotations

import ast
import io
import re
import sys

import pytest

from suzoo import cli
from suzoo.chinese import TABLE, local
from tests.pages import ROOT

# of argparse, of the operating system and of transformers
FOREIGN = [
    *(key for key in TABLE if key.startswith("We couldn't connect")),
    *(key for key in TABLE if key.startswith(("argument {}", "the following arguments", "unrecognized"))),
    "{}: No such file or directory",
]


@pytest.fixture
def chinese(monkeypatch):
    monkeypatch.setenv("LANGUAGE", "zh_CN")


def messages() -> set[str]:
    """Every text in the code, with {} for its values."""
    found = set()
    for path in ROOT.glob("suzoo/**/*.py"):
        if path.name == "chinese.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
            elif isinstance(node, ast.JoinedStr):
                found.add("".join(p.value if isinstance(p, ast.Constant) else "{}" for p in node.values))
    return found


def test_every_message_of_the_table_is_one_of_the_code():
    assert set(TABLE) - messages() - set(FOREIGN) == set()


@pytest.mark.parametrize("english", TABLE)
def test_every_value_is_in_the_chinese_message_once(english):
    places = re.findall(r"\{(\d)\}", TABLE[english])
    assert sorted(places) == [str(place) for place in range(english.count("{}"))]


def test_messages_are_translated_with_their_values(chinese):
    values = "out/a.txt", "某文件.txt", "'label'", "x, y", "5"
    for english, translated in TABLE.items():
        given = list(values[: english.count("{}")])
        if "{}{}" in english:
            given[english.replace("{}{}", "{}!").split("!")[0].count("{}")] = " (did you mean 'label'?)"
        assert local(english.format(*given)) == translated.format(*map(local, given)), english
    assert local("there is no file or folder pairs.tsv") == "没有文件或文件夹 pairs.tsv"
    assert (
        local("there is no file or folder a.tsv (did you mean 'b.tsv'?)")
        == "没有文件或文件夹 a.tsv（是不是 'b.tsv'？）"
    )
    assert local("cannot load m: it has no usable tokenizer; save one into the folder") == (
        "无法加载 m：它没有可用的分词器；请把分词器保存到这个文件夹"
    )
    assert local("12 texts, 3 of them cut to the model's length: 128 dimensions, written to v.npy") == (
        "12 条文本，其中 3 条按模型的长度截断：128 维，已写入 v.npy"
    )
    assert local("nobody has translated this") == "nobody has translated this"


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "interrupted"),
        ({"LANG": "zh_CN.UTF-8"}, "已中断"),
        ({"LANG": "zh_TW.UTF-8"}, "已中断"),
        ({"LANG": "en_US.UTF-8"}, "interrupted"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C"}, "interrupted"),
        ({"LANG": "en_US.UTF-8", "LANGUAGE": "zh"}, "已中断"),
        ({"LANG": "zh_CN.UTF-8", "LANGUAGE": "en:zh"}, "interrupted"),
    ],
)
def test_the_locale_decides(monkeypatch, variables, expected):
    for name in ("LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert local("interrupted") == expected


def test_a_terminal_without_chinese_gets_english(chinese, monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert local("interrupted") == "interrupted"


def test_what_the_command_says(chinese, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts.txt").write_text("一\n", encoding="utf-8")
    (tmp_path / "vectors.npy").touch()
    for arguments, said in [
        ("encode ./nowhere texts.txt --output v.npy", "suzoo encode: 没有文件夹 ./nowhere"),
        ("encode m texts.txt --output vectors.npy", "suzoo encode: vectors.npy 已存在；要替换它，请加上 --overwrite"),
        ("encode m texts.txt --output v.txt", "suzoo encode: v.txt：输出文件名必须以 .npy or .jsonl or .parquet 结尾"),
        ("verify texts", None),
    ]:
        code = cli.main(arguments.split())
        error = capsys.readouterr().err.strip()
        assert code == 2 and (error == said if said else error)
    for arguments, said in [
        ("encode m", "缺少参数："),
        ("encode m texts.txt --output v.npy --wrong", "不认识的参数：--wrong"),
        ("encode m texts.txt --output v.npy --backend keras", "参数 --backend：没有选项 'keras'（可选："),
        ("encode m texts.txt --output", "参数 --output：需要一个值"),
        ("encode m texts.txt --output v.npy --batch-tokens many", "参数 --batch-tokens：'many' 不是有效的值"),
    ]:
        with pytest.raises(SystemExit):
            cli.main(arguments.split())
        assert said in capsys.readouterr().err


def test_every_command_has_a_chinese_description(chinese):
    (subcommands,) = (action for action in cli._parser()._actions if isinstance(action.choices, dict))
    english = {name for name, sub in subcommands.choices.items() if sub.description.isascii()}
    assert len(subcommands.choices) > 12 and english == set()
