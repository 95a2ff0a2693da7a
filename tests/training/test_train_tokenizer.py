"""training/train_tokenizer.py, run as a user runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import train_tokenizer
from transformers import AutoTokenizer

from suzoo.data import DataError

SCRIPT = Path(train_tokenizer.__file__)


def test_the_folder_it_writes_loads(tmp_path, capsys):
    (tmp_path / "corpus.txt").write_text("一个 tokenizer\nand another tokenizer\n" * 20, encoding="utf-8")
    settings = train_tokenizer.Settings(output_dir=tmp_path / "out", data=str(tmp_path / "corpus.txt"), vocab_size=60)
    train_tokenizer.main(settings)
    assert AutoTokenizer.from_pretrained(tmp_path / "out").tokenize("一个tokenizer") == ["一", "个", "tokenizer"]
    assert "from 40 texts" in capsys.readouterr().out
    with pytest.raises(DataError, match="--overwrite"):
        train_tokenizer.main(settings)


def test_a_mistake_is_one_line_and_an_exit_code(tmp_path):
    (tmp_path / "corpus.tsv").write_text("title\tbody\na\tb\n", encoding="utf-8")
    run = subprocess.run(
        [sys.executable, SCRIPT, "--data", "corpus.tsv", "--output-dir", "out"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 2
    assert run.stderr.startswith("error: corpus.tsv has no column for text") and run.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
