"""The experiments: each says its claim, command and verdict, and what they share counts as it should."""

from __future__ import annotations

import ast
import importlib
import json
import re
import sys
from collections import Counter, defaultdict
from itertools import product
from pathlib import Path

import pytest

from tests.hub.folders import make_encoder
from tests.tiny import SENTENCES, tiny_config, tiny_tokenizer

FOLDER = Path(__file__).parent.parent / "reproductions"
SCRIPTS = sorted(path for path in FOLDER.glob("*.py") if path.name[0] != "_" and path.name != "report.py")


@pytest.fixture
def on_path(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_says_claim_command_and_verdict(path):
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    assert "Claim" in text and "Verdict: " in text and f"python reproductions/{path.name}" in text
    # data and results lie where the command says, not where they lie on one machine
    assert not re.search(r"(?<![\w./:)}\]])(?:/\w|~/|[A-Z]:\\)", path.read_text())


def test_the_page_is_what_the_scripts_say(on_path):
    import report

    assert (FOLDER / "README.md").read_text(encoding="utf-8") == report.page(), "run python reproductions/report.py"


def test_a_verdict_is_one_of_four_and_the_rest_is_not_yet(on_path, tmp_path):
    import report

    text = '"""Title.\n\nClaim (kexue.fm/archives/8847, 9341; arXiv 2104.08821): x is\n80.14.\n\n'
    text += '    python reproductions/x.py --data y\n\nVerdict: holds in part: .7 and\n.5.\n"""\n'
    path = tmp_path / "x.py"
    path.write_text(text)
    found = report.read(path)
    assert found == report.Experiment(
        "x",
        "Title.",
        ["8847", "9341"],
        "x is 80.14.",
        "python reproductions/x.py --data y",
        "holds in part",
        ".7 and .5.",
    )
    path.write_text(text.replace("holds in part: .7 and", "in training/LOG.md"))
    assert report.read(path).verdict == "not yet"
    path.write_text(text.replace("Verdict", "Result"))
    with pytest.raises(ValueError, match=r"x\.py: its docstring needs paragraphs Claim and Verdict"):
        report.read(path)


def test_a_table_has_the_spread_over_seeds_and_keeps_finished_runs(on_path, monkeypatch, capsys, tmp_path):
    import _runs

    class Script:
        @staticmethod
        def main():
            arguments = sys.argv[1:]
            folder, seed = Path(arguments[arguments.index("--output-dir") + 1]), int(arguments[-1])
            folder.mkdir()
            calls.append(arguments)
            bonus = 0.1 if "--better" in arguments else 0.0
            (folder / "metrics.json").write_text(json.dumps({"dev": {"score": 0.5 + bonus + 0.01 * seed}}))

    calls: list[list[str]] = []
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setitem(sys.modules, "train_nothing", Script)
    run = {"common": ["--lr", 1], "seeds": (0, 2), "columns": ("score",)}
    _runs.table("train_nothing", "scratch", tmp_path, {"plain": [], "better": ["--better"]}, **run)
    expected = "| | score |\n|---|---|\n| plain | .510 ± .014 |\n| better | .610 ± .014 |\n"
    assert capsys.readouterr().out == expected and len(calls) == 4
    _runs.table("train_nothing", "scratch", tmp_path, {"the same flags": ["--better"]}, **run, header=False)
    assert capsys.readouterr().out == "| the same flags | .610 ± .014 |\n" and len(calls) == 4
    run |= {"columns": ("score", "dev: score"), "split": "dev"}
    _runs.table("train_nothing", "scratch", tmp_path, {"two columns": ["--better"]}, **run, header=False)
    assert capsys.readouterr().out == "| two columns | .610 ± .014 | .610 ± .014 |\n" and len(calls) == 4


def test_the_spread_keeps_the_digits_before_the_point(on_path):
    from _runs import spread

    assert spread([680.0, 682.0]) == "681.000 ± 1.414" and spread([10.5, 10.5]) == "10.500 ± .000"
    assert spread([0.25]) == ".250" and spread([670.5]) == "670.500" and spread([-0.5]) == "-.500"


def test_long_tailed_classes_and_a_dev_set_of_equal_ones(on_path):
    from imbalance import long_tailed

    rows = [{"text": f"{label} {i}", "label": label} for label in "abcde" for i in range(300)]
    train, dev = long_tailed(rows, most=160, least=10)
    counts = Counter(row["label"] for row in train)
    assert sorted(counts.values()) == [10, 20, 40, 80, 160]
    assert set(Counter(row["label"] for row in dev).values()) == {40}
    assert not {row["text"] for row in train} & {row["text"] for row in dev}
    assert long_tailed(rows, most=160, least=10) == (train, dev)


PAIRS = ["--data", "pairs.tsv", "--dev", "pairs.tsv"]
CLASSES = ["--data", "classes.jsonl"]
TITLES = ["--data", "titles.tsv", "--dev", "titles.tsv"]
FROM_WEIGHTS = ["--model", "mlm"]
COMMANDS = [
    ("auxiliary_task", PAIRS),
    ("cosent_vs_sbert", PAIRS),
    ("cosent_vs_sbert", [*PAIRS, *FROM_WEIGHTS]),
    ("exposure_bias", []),
    ("exposure_bias", [*TITLES, *FROM_WEIGHTS]),
    ("imbalance", [*CLASSES, "--most", "4", "--least", "2"]),
    ("imbalance", [*CLASSES, "--most", "4", "--least", "2", *FROM_WEIGHTS]),
    ("imbalance_multilabel", [*CLASSES, "--dev", "classes.jsonl"]),
    ("imbalance_multilabel", [*CLASSES, "--dev", "classes.jsonl", *FROM_WEIGHTS]),
    ("parameter_search", []),
    ("parameter_search", ["--base", "learnt"]),
    ("regularizers_classification", CLASSES),
    ("regularizers_classification", [*CLASSES, *FROM_WEIGHTS]),
    ("regularizers_cosent", PAIRS),
    ("regularizers_cosent", [*PAIRS, *FROM_WEIGHTS]),
    ("unilm_from_mlm", [*TITLES, *FROM_WEIGHTS]),
]


@pytest.mark.parametrize(("name", "flags"), COMMANDS)
def test_the_scripts_know_the_flags_of_an_experiment(on_path, monkeypatch, tmp_path, name, flags):
    from recipes import command_line

    import _runs

    def only_parsed(script: str, recipe: str, folder: Path, flags) -> dict:
        monkeypatch.setattr(sys, "argv", [script, recipe, "--output-dir", str(folder), *map(str, flags)])
        parsed.append(command_line.parse(importlib.import_module(script).RECIPES, None))
        return defaultdict(lambda: defaultdict(float))

    monkeypatch.chdir(tmp_path)
    Path("pairs.tsv").write_text("text1\ttext2\tlabel\n" + "".join(f"a {i}\tb {i}\t{i % 5}\n" for i in range(20)))
    rows = [{"text": f"{label} {i}", "label": label} for label in "abc" for i in range(50)]
    Path("classes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tiny_config().save_pretrained("mlm")
    parsed: list = []
    experiment = importlib.import_module(name)
    for module in (_runs, experiment):
        monkeypatch.setattr(module, "train", only_parsed, raising=False)
    monkeypatch.setattr(sys, "argv", [name, *flags, "--seeds", "0"])
    experiment.main()
    assert len(parsed) >= 2


def test_two_trainers_at_equal_budget_and_finished_runs_are_kept(on_path, monkeypatch, tmp_path, capsys):
    import cosent_vs_sentence_transformers as experiment

    make_encoder().save_pretrained(tmp_path / "model", tokenizer=tiny_tokenizer())
    rows = [f"{first}\t{second}\t{i % 5}\n" for i, (first, second) in enumerate(product(SENTENCES, SENTENCES))]
    for name in ("train", "dev"):
        (tmp_path / f"{name}.tsv").write_text("text1\ttext2\tlabel\n" + "".join(rows))
    flags = ["--model", tmp_path / "model", "--data", tmp_path / "train.tsv", "--dev", tmp_path / "dev.tsv"]
    flags += ["--steps", "2", "--lr", "1e-3", "--seeds", "0", "--out", tmp_path / "out"]

    def printed() -> str:
        monkeypatch.setattr(sys, "argv", ["experiment", *map(str, flags)])  # `train` puts its own there
        experiment.main()
        return capsys.readouterr().out

    table = printed()
    names = re.findall(r"^\| ([\w-]+) \| -?\.\d{3} \|$", table, re.MULTILINE)
    assert names == ["before", "suzoo", "sentence-transformers"] and len(set(table.splitlines()[2:])) == 3
    weights = [tmp_path / "out" / f"{name}-0/model.safetensors" for name in names[1:]]
    written = [path.stat().st_mtime_ns for path in weights]
    assert printed() == table and [path.stat().st_mtime_ns for path in weights] == written


def test_every_experiment_that_tabulates_has_a_command_here():
    tabulates = re.compile(r"^from _runs import .*\btable\b", re.MULTILINE)
    assert {name for name, _ in COMMANDS} == {path.stem for path in SCRIPTS if tabulates.search(path.read_text())}


def test_a_rate_is_the_best_when_both_neighbours_were_tried(on_path, capsys):
    from _runs import table_of_rates

    calls: list[tuple] = []

    def accuracy(name: str, lr: float, seed: int) -> float:
        calls.append((name, lr, seed))
        return {"Lion": {0.01: 0.5, 0.03: 0.7, 0.09: 0.6}, "Tiger": {0.00333: 0.7}}[name].get(lr, 0.1) + 0.01 * seed

    table_of_rates({"Lion": 0.01, "Tiger": 0.01}, accuracy, seeds=(0, 2))
    assert capsys.readouterr().out.splitlines()[2:] == [
        "| Lion | 0.003: 0.100, 0.01: 0.500, 0.03: 0.700, 0.09: 0.600 | 0.03 | .710 ± .014 |",
        "| Tiger | 0.001: 0.100, 0.003: 0.700, 0.01: 0.100, 0.03: 0.100 | 0.003 | .710 ± .014 |",
    ]
    # 3 * 0.00333 is no rate of its own beside 0.01
    assert calls[:5] == [*(("Lion", lr, 0) for lr in (0.01, 0.00333, 0.03, 0.09)), ("Lion", 0.03, 2)]
    assert calls[5:] == [*(("Tiger", lr, 0) for lr in (0.01, 0.00333, 0.03, 0.00111)), ("Tiger", 0.00333, 2)]
