"""training/train_tokenizer.py, run as a user runs it."""

from __future__ import annotations

import runpy
import sys

import pytest
import train_tokenizer
from transformers import AutoTokenizer

from suzoo.data import DataError


def test_the_folder_it_writes_loads(tmp_path, capsys):
    (tmp_path / "corpus.txt").write_text("一个 tokenizer\nand another tokenizer\n" * 20, encoding="utf-8")
    settings = train_tokenizer.Settings(output_dir=tmp_path / "out", data=str(tmp_path / "corpus.txt"), vocab_size=60)
    train_tokenizer.main(settings)
    assert AutoTokenizer.from_pretrained(tmp_path / "out").tokenize("一个tokenizer") == ["一", "个", "tokenizer"]
    assert "from 40 texts" in capsys.readouterr().out
    with pytest.raises(DataError, match="--overwrite"):
        train_tokenizer.main(settings)


def test_a_mistake_is_one_line_and_an_exit_code(tmp_path, monkeypatch, capsys):
    (tmp_path / "corpus.tsv").write_text("title\tbody\na\tb\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [train_tokenizer.__file__, "--data", "corpus.tsv", "--output-dir", "out"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(train_tokenizer.__file__, run_name="__main__")
    error = capsys.readouterr().err
    assert end.value.code == 2
    assert error.startswith("error: corpus.tsv has no column for text") and error.count("\n") == 1
    assert not (tmp_path / "out").exists()
