"""Flags that carry their own facts: range, what they belong to, what the card shows; and the help made of them."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from recipes import frame
from recipes.base import Training
from recipes.classifier import Classification
from recipes.command_line import GROUPS, parse
from recipes.cosent import CoSENT
from recipes.settings import Setting, changeable, check_ranges, settings_of, shown

import pytest
import torch
import train_cosent
from safetensors.torch import load_file

from tests.training.scripts import refused, run

TRAINING = Path(__file__).parent.parent.parent / "training"
STEMS = sorted(path.stem.removeprefix("train_") for path in TRAINING.glob("train_*.py") if "tokenizer" not in path.stem)


def recipes_of(stem: str) -> dict:
    return import_module(f"recipes.{stem}").RECIPES


@pytest.mark.parametrize("stem", STEMS)
def test_every_number_has_a_range_and_every_recipe_is_in_it(stem):
    for function in recipes_of(stem).values():
        recipe = function()
        check_ranges(recipe)
        recipe.check()
    # any number means something
    free = {"class_threshold", "post_hoc_tau", "hard_negative_weight", "alike_from"}
    for field in dataclasses.fields(recipe):
        if isinstance(getattr(recipe, field.name), int | float) and not isinstance(getattr(recipe, field.name), bool):
            setting = settings_of(type(recipe))[field.name]
            limited = {setting.above, setting.least, setting.most} != {None}
            assert limited or field.name in free, f"{stem}: --{field.name} has no range"


@pytest.mark.parametrize("stem", STEMS)
def test_a_file_of_dev_data_has_no_split_and_embedded_data_have_one(stem):
    for function in recipes_of(stem).values():
        assert replace(function(), dev="dev.tsv").dev_data == ("dev.tsv", None)
        assert replace(function(), dev="embedded:pairs_zh").dev_data == ("embedded:pairs_zh", "dev")


@pytest.mark.parametrize("stem", STEMS)
def test_what_a_flag_is_part_of_exists(stem):
    kind = type(next(iter(recipes_of(stem).values()))())
    names = {field.name for field in dataclasses.fields(kind)}
    for name, setting in settings_of(kind).items():
        assert {condition.partition("=")[0] for condition in setting.part_of} <= names, name


def test_a_number_out_of_range_is_a_sentence():
    for field, value, message in [
        ("vat_weight", -1.0, "--vat-weight must be 0 or more, not -1.0"),
        ("lr", float("nan"), "--lr must be above 0, not nan"),
        ("lr", float("inf"), "--lr must be finite, not inf"),
        ("dropout", 1.5, "--dropout must be from 0 to 1, not 1.5"),
        ("patience", 0, "--patience must be 1 or more, not 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            check_ranges(CoSENT(**{field: value}))
    check_ranges(CoSENT(dropout=None, max_grad_norm=None))


def test_the_card_shows_what_had_an_effect():
    found = shown(CoSENT())
    assert (
        not {"pgd_step_size", "vat_weight", "class_threshold", "fgm", "lora_save", "dev", "output_dir"} & found.keys()
    )
    assert found["hidden_size"] == 256 and found["warmup"] == 0.1
    found = shown(CoSENT(model="x", vat=0.1, loss="sbert", lora_r=4, warmup=0.0))
    assert {"vat_weight", "disturbance_norm", "class_threshold", "lora_save"} <= found.keys()
    assert "hidden_size" not in found and found["warmup"] == 0.0
    assert "gamma" not in shown(Classification(data=("x",))) and "gamma" in shown(
        Classification(data=("x",), loss="focal")
    )


def test_only_what_changes_nothing_may_change_at_a_resume():
    assert changeable(CoSENT()) == {
        *(
            "output_dir",
            "overwrite",
            "resume",
            "push_to",
            "from_run",
            "preflight",
            "preflight_only",
            "quiet",
            "tracker",
            "cpu_threads",
            "save_every",
            "license",
            "language",
        ),
        "num_workers",
    }


def test_the_command_line_gives_the_recipe_back(monkeypatch):
    flags = ["quickstart", "--lr", "0.5", "--columns", "text1=a", "text2=b", "--dropout", "None", "--overwrite", "-q"]
    monkeypatch.setattr(sys, "argv", ["train_cosent.py", *flags])
    recipe = parse(recipes_of("cosent"), "")
    given = {"lr": 0.5, "columns": ("text1=a", "text2=b"), "dropout": None, "overwrite": True, "quiet": True}
    assert recipe == replace(recipes_of("cosent")["quickstart"](), **given) and type(recipe) is CoSENT


@pytest.mark.parametrize("script", ["train_cosent.py", "train_tokenizer.py"])
@pytest.mark.parametrize("more", [["-q"], ["--quiet"], []])
def test_a_quiet_script_is_quiet_before_the_libraries_are_loaded(more, script):
    code = "import os, recipes; print(os.environ.get('TQDM_DISABLE'), os.environ.get('SUZOO_QUIET'))"
    code = f"import sys; sys.argv = [{str(TRAINING / script)!r}, *{['quickstart', *more]}]; {code}"
    hidden = {name: value for name, value in os.environ.items() if name not in ("TQDM_DISABLE", "SUZOO_QUIET")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=TRAINING, env=hidden)
    assert done.stdout.split() == (["1", "1"] if more else ["None", "None"]), done.stderr


@pytest.mark.parametrize("stem", STEMS)
def test_help_is_grouped_told_and_loads_no_torch(stem):
    """The time is that of the process, so that a busy machine is no failure; with torch it would be seconds."""
    code = f"""
import runpy, sys
sys.argv = ["{TRAINING}/train_{stem}.py", "{next(iter(recipes_of(stem)))}", "--help"]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as end:
    assert not end.code and "torch" not in sys.modules and "transformers" not in sys.modules
"""
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=TRAINING)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - started < 30
    titles = [group for group in GROUPS if f"{group} options" in done.stdout]
    assert titles[:3] == ["data", "model", "training"] and titles[-1] == "output"
    assert "Peak learning rate." in done.stdout


@pytest.mark.parametrize(
    ("given", "is_refused"),
    [
        ({"SLURM_NTASKS": "2", "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}, True),  # srun -n 2 python …
        ({"SLURM_NTASKS": "2", "SLURM_PROCID": "0"}, False),  # a batch script runs once, whatever it may start
        ({"SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}, False),
        ({"SLURM_STEP_NUM_TASKS": "2", "WORLD_SIZE": "2", "RANK": "0"}, False),  # srun -n 2 torchrun …
    ],
)
def test_tasks_of_srun_that_know_nothing_of_each_other_are_refused(monkeypatch, given, is_refused):
    for name in ("SLURM_NTASKS", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    if is_refused:
        with pytest.raises(ValueError, match=r"srun started 2 tasks .*torchrun"):
            frame.check_launch()
    else:
        frame.check_launch()


@pytest.mark.parametrize(
    ("given", "threads"),
    [
        ({}, 4),
        ({"OMP_NUM_THREADS": "3"}, 3),
        ({"OMP_NUM_THREADS": "1"}, 1),
        ({"OMP_NUM_THREADS": "several"}, 4),
        ({"LOCAL_WORLD_SIZE": "2"}, 2),
        ({"LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}, 2),  # torchrun sets it unasked
        ({"LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "3"}, 3),
        ({"ACCELERATE_MIXED_PRECISION": "no", "OMP_NUM_THREADS": "1"}, 4),  # as does accelerate launch
    ],
)
def test_threads_are_those_that_somebody_chose_or_the_cores_shared_out(monkeypatch, given, threads):
    for name in ("OMP_NUM_THREADS", "LOCAL_WORLD_SIZE", "ACCELERATE_MIXED_PRECISION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)
    assert frame.share_of_cores() == threads


def test_a_field_without_facts_has_the_default_ones():
    assert settings_of(Training)["data"] == Setting()


def test_a_run_is_repeated_from_its_record_to_the_same_bits(tmp_path, monkeypatch, capsys, caplog):
    monkeypatch.setattr(frame, "publish", lambda *arguments: None)
    rows = [{"text1": f"text {i % 9}", "text2": f"text {i % 5}", "label": i % 4} for i in range(48)]
    data = tmp_path / "pairs.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    flags = ["--data", data, "--dev", data, "--hidden-size", "32", "--num-layers", "1", "--batch-size", "16"]
    flags += ["--max-steps", "5", "--seed", "7", "--rdrop", "1", "--output-dir", tmp_path / "run"]
    run(monkeypatch, train_cosent, "quickstart", *flags)
    caplog.clear()
    run(monkeypatch, train_cosent, "--from-run", tmp_path / "run/run.json")
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("run", "run-again"))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    records = [json.loads((tmp_path / name / "run.json").read_text()) for name in ("run", "run-again")]
    changed = {name for name in records[0]["recipe"] if records[0]["recipe"][name] != records[1]["recipe"][name]}
    assert changed == {"from_run", "output_dir", "cpu_threads"} and records[0]["settings"] == records[1]["settings"]
    assert "not those of the run" not in caplog.text

    data.write_text("\n".join(map(json.dumps, rows[:40])))
    run(monkeypatch, train_cosent, f"--from-run={tmp_path / 'run'}", "--max-steps", "1", "--output-dir", tmp_path / "c")
    assert "the train data are not those of the run" in caplog.text and "40 rows now, 48 then" in caplog.text
    assert json.loads((tmp_path / "c/run.json").read_text())["recipe"]["max_steps"] == 1

    def message(*arguments):
        return refused(monkeypatch, capsys, train_cosent, *arguments)

    assert "takes the place of the recipe quickstart" in message("quickstart", "--from-run", tmp_path / "run")
    assert "No such file" in message("--from-run", tmp_path / "none.json")
    assert "is not the record of a run" in message("--from-run", data)
    assert "needs the run.json" in message("--from-run")
    record = records[0] | {"script": "training/train_tta.py"}
    (tmp_path / "other.json").write_text(json.dumps(record))
    assert "is a run of train_tta.py, not of train_cosent.py" in message("--from-run", tmp_path / "other.json")
    record = records[0] | {"recipe": records[0]["recipe"] | {"gone": 1}}
    (tmp_path / "older.json").write_text(json.dumps(record))
    assert "has the flags gone, which this version does not" in message("--from-run", tmp_path / "older.json")
