"""`suzoo examples` and `suzoo script`: what a guide needs where there is no checkout and no data."""

from __future__ import annotations

import pytest

from suzoo import terminal
from suzoo.cli import main
from suzoo.data import read_classes, read_dialogues, read_pairs, read_queries, read_seq2seq
from suzoo.data.embedded import CORPORA, load


@pytest.mark.parametrize(
    ("corpus", "suffix", "reader"),
    [
        ("pairs_zh", ".tsv", read_pairs),
        ("pairs_en", ".jsonl", read_pairs),
        ("titles_zh", ".tsv", read_seq2seq),
        ("classes_zh", ".jsonl", read_classes),
        ("dialogues_zh", ".jsonl", read_dialogues),
    ],
)
def test_rows_are_read_from_the_file_as_they_are_from_the_corpus(tmp_path, corpus, suffix, reader):
    path = tmp_path / f"rows{suffix}"
    assert main(["examples", corpus, str(path), "--split", "dev"]) == 0
    assert list(reader(path)) == list(reader(f"embedded:{corpus}", split="dev"))


def test_text_and_numbers_of_rows(tmp_path, capsys):
    path = tmp_path / "texts.txt"
    assert main(["examples", "typos_zh", str(path), "--rows", "3"]) == 0
    assert path.read_text(encoding="utf-8").splitlines() == [row["source"] for row in load("typos_zh")[:3]]
    assert f"wrote 3 rows of typos_zh to {path}" in capsys.readouterr().out
    assert main(["examples", "typos_zh", str(path), "--rows", "3"]) == 0  # the guides ask for the same files
    for arguments, said in [
        (["pairs_zh", str(path)], "exists and holds other rows; give --overwrite"),
        (["pairz", str(tmp_path / "a.txt")], "did you mean 'pairs_zh'"),
        (["dialogues_en", str(tmp_path / "a.tsv")], "name a .jsonl"),
        (["titles_zh", str(tmp_path / "a.tsv"), "--columns", "query=title"], "there are source, target"),
        (["pairs_zh", str(tmp_path / "a.xml")], ".jsonl or .tsv or .txt"),
    ]:
        assert main(["examples", *arguments]) == 2 and said in capsys.readouterr().err
    assert not (tmp_path / "a.txt").exists() and not (tmp_path / "a.tsv").exists()
    assert all(load(name, "dev") for name in CORPORA)


def test_columns_are_renamed(tmp_path):
    path = tmp_path / "queries.jsonl"
    columns = ["query=target", "positive=source"]
    assert main(["examples", "titles_zh", str(path), "--rows", "5", "--columns", *columns]) == 0
    assert [query.query for query in read_queries(path)] == [row["target"] for row in load("titles_zh")[:5]]


def test_scripts_of_hub_scripts_run_by_name(capsys, monkeypatch):
    monkeypatch.setattr(terminal, "called_as", None)
    with pytest.raises(SystemExit) as end:
        main(["script", "make_space", "--help"])
    told = capsys.readouterr().out
    assert not end.value.code and "OUTPUT gets `app.py`" in told and told.startswith("usage: suzoo script make_space ")
    with pytest.raises(SystemExit) as end:
        main(["script", "push_all"])
    assert end.value.code == 2 and "convert_bert4keras" in capsys.readouterr().err
    assert main(["train", "--num-processes", "2", "cosent", "quickstart"]) == 2
    assert "--num-processes needs --config" in capsys.readouterr().err
