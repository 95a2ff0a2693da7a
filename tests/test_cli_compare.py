"""`suzoo compare`: what differs is said, what is equal is counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from suzoo.cli import main

RUN = {
    "recipe": {"lr": 2e-5, "seed": 1, "loss": "cosent", "output_dir": "out/a", "columns": []},
    "data": {"train": {"source": "pairs.tsv", "rows": 100, "sha256": "ab" * 32}},
    "versions": {"torch": "2.13.0"},
    "git_commit": "0" * 40,
}
SCORES = {"dev": {"spearman": 0.8123456, "pearson": 0.79}}


def write(folder: Path, run: dict = RUN, scores: dict = SCORES) -> str:
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(run))
    (folder / "metrics.json").write_text(json.dumps(scores))
    return str(folder)


def test_what_differs_is_printed_and_nothing_else(tmp_path, capsys):
    other = {
        "recipe": RUN["recipe"] | {"lr": 1e-4, "fgm": 0.1, "output_dir": "out/b"},
        "data": {"train": RUN["data"]["train"] | {"rows": 90, "sha256": "cd" * 32}},
        "versions": {"torch": "2.14.0"},
        "git_commit": "0" * 40,
    }
    folders = write(tmp_path / "a"), write(tmp_path / "b", other, {"dev": {"spearman": 0.8223456, "pearson": 0.79}})
    assert main(["compare", *folders]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows == [
        ["recipe:", "2", "differ,", "3", "equal"],
        ["a", "b"],
        ["lr", "2e-05", "0.0001"],
        ["fgm", "-", "0.1"],
        [],
        ["data:", "2", "differ,", "1", "equal"],
        ["a", "b"],
        ["train", "rows", "100", "90"],
        ["train", "sha256", "ab" * 6, "cd" * 6],
        [],
        ["versions:", "1", "differ,", "1", "equal"],
        ["a", "b"],
        ["torch", "2.13.0", "2.14.0"],
        [],
        ["scores:", "1", "differ,", "1", "equal"],
        ["a", "b", "change"],
        ["dev", "spearman", "0.812346", "0.822346", "+0.0100"],
        [],
    ]


def test_equal_runs_several_runs_and_one_under_way(tmp_path, capsys):
    same = [write(tmp_path / name / "run") for name in "ab"]
    assert main(["compare", *same]) == 0
    said = capsys.readouterr().out
    assert said == "recipe: all 4 equal\ndata: all 3 equal\nversions: all 2 equal\nscores: all 2 equal\n"
    began = tmp_path / "c" / "checkpoints"
    began.mkdir(parents=True)
    (began / "began.json").write_text(json.dumps({"flags": RUN["recipe"] | {"seed": 2}, "data": RUN["data"]}))
    assert main(["compare", *same, str(tmp_path / "c")]) == 0
    said = capsys.readouterr().out
    assert "seed  1      1      2" in said and "a/run  b/run" in said and "change" not in said


@pytest.mark.parametrize("content", ["[]", "{", '{"recipe": 3, "data": {}}'])
def test_a_broken_record_is_one_sentence(content, tmp_path, capsys):
    good = write(tmp_path / "good")
    bad = Path(write(tmp_path / "bad"))
    (bad / "run.json").write_text(content)
    assert main(["compare", good, str(bad)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("suzoo compare: ") and said.count("\n") == 1 and "bad" in said


def test_what_is_no_run_is_said(tmp_path, capsys):
    good = write(tmp_path / "good")
    assert main(["compare", good]) == 2
    assert "two runs or more" in capsys.readouterr().err
    for other, reason in [
        (tmp_path / "nowhere", "is not a folder"),
        (tmp_path, "holds no run"),
        (good, "same as itself"),
    ]:
        assert main(["compare", good, str(other)]) == 2
        assert reason in capsys.readouterr().err
