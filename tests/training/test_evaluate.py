"""evaluate.py as a user runs it: scores of a saved model on several files, and what can be got wrong."""

from __future__ import annotations

import sys

import evaluate
import pytest

from suzoo.data import read_pairs
from suzoo.engine import format_scores
from suzoo.evaluation import pair_cosines, pair_metrics
from suzoo.models import CoSENTModel
from tests.tiny import tiny_config, tiny_tokenizer

ROWS = {"a": "今天\t天气\t0\n今天\t今天\t1\n很好\t我\t0\n", "b": "你\t我\t0\n天气\t天气\t1\n"}


def run(monkeypatch, *arguments) -> int:
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, arguments)])
    return evaluate.main()


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / name / "test.tsv" for name in ROWS]
    for path in paths:
        path.parent.mkdir()
        path.write_text("text1\ttext2\tlabel\n" + ROWS[path.parent.name])
    return paths


def test_every_file_is_scored_also_two_of_one_name(tmp_path, monkeypatch, capsys, files):
    model = CoSENTModel(tiny_config())
    model.tokenizer = tiny_tokenizer()
    model.save_pretrained(tmp_path / "model")
    assert run(monkeypatch, tmp_path / "model", "--data", *files) == 0
    model = CoSENTModel.from_pretrained(tmp_path / "model")
    data = {str(path): read_pairs(path) for path in files}
    expected = {
        name: pair_metrics(pair_cosines(model.encode, rows), [row.label for row in rows]) for name, rows in data.items()
    }
    assert capsys.readouterr().out.strip() == format_scores(expected).strip()


def test_a_wrong_name_is_told_before_anything_is_scored(tmp_path, monkeypatch, capsys, files):
    assert run(monkeypatch, tmp_path / "model", "--data", *files) == 2
    assert "there is no folder" in capsys.readouterr().err
    assert run(monkeypatch, tmp_path, "--data", files[0], tmp_path / "a" / "tset.tsv") == 2
    printed = capsys.readouterr()
    assert "there is no file or folder" in printed.err and "test.tsv" in printed.err and not printed.out
