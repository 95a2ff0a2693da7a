"""Flags that carry their own facts: range, what they belong to, what the card shows; and the help made of them."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from recipes.base import Training
from recipes.classifier import Classification
from recipes.command_line import GROUPS, parse
from recipes.cosent import CoSENT
from recipes.settings import Setting, changeable, check_ranges, settings_of, shown

import pytest

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
    free = {"class_threshold", "tau", "post_hoc_tau", "hard_negative_weight", "alike_from"}
    for field in dataclasses.fields(recipe):
        if isinstance(getattr(recipe, field.name), int | float) and not isinstance(getattr(recipe, field.name), bool):
            setting = settings_of(type(recipe))[field.name]
            limited = {setting.above, setting.least, setting.most} != {None}
            assert limited or field.name in free, f"{stem}: --{field.name} has no range"


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
            "tracker",
            "cpu_threads",
            "save_every",
            "license",
            "language",
        ),
        "num_workers",
    }


def test_the_command_line_gives_the_recipe_back(monkeypatch):
    flags = ["quickstart", "--lr", "0.5", "--columns", "text1=a", "text2=b", "--dropout", "None", "--overwrite"]
    monkeypatch.setattr(sys, "argv", ["train_cosent.py", *flags])
    recipe = parse(recipes_of("cosent"), "")
    expected = replace(
        recipes_of("cosent")["quickstart"](), lr=0.5, columns=("text1=a", "text2=b"), dropout=None, overwrite=True
    )
    assert recipe == expected and type(recipe) is CoSENT


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


def test_a_field_without_facts_has_the_default_ones():
    assert settings_of(Training)["data"] == Setting()
