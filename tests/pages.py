"""What the pages promise: their Python blocks print what they say, their commands have the flags that they name."""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import shlex
from pathlib import Path

from recipes.settings import check_ranges

import tyro
from accelerate.commands.launch import launch_command_parser

from suzoo import cli

ROOT = Path(__file__).parent.parent


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)


def run_python(page: str, block: str, names: dict) -> str:
    """Run a block, and compare what it prints with its lines `# …`, where it has some. -> what it said it prints."""
    said = "\n".join(line.removeprefix("# ") for line in block.splitlines() if line.startswith("# "))
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(block, page, "exec"), names)
    assert not said or printed.getvalue().strip() == said
    return said


def commands(page: str) -> list[list[str]]:
    """The words of every command in the shell blocks of a page."""
    text = "\n".join(blocks(page, "bash")).replace("\\\n", " ")
    split = [shlex.split(command, comments=True) for line in text.splitlines() for command in line.split("&&")]
    return [words for words in split if words]


def recipes_of(script: str) -> dict:
    """name -> recipe of `training/train_<script>.py`."""
    return importlib.import_module(f"recipes.{script}").RECIPES


def check_command(words: list[str]) -> None:
    """Refuse flags of suzoo, of its scripts and of `accelerate launch` that do not exist or that contradict each other.
    Other programs' are not looked at."""
    if words[0] == "suzoo":
        options = cli._parser().parse_args(words[1:])  # exits on an unknown flag
        if words[1] == "train":
            _check_recipe(options.script, options.arguments)
        return
    paths = [number for number, word in enumerate(words) if word.startswith("training/train_")]
    if not paths:
        return
    assert (ROOT / words[paths[0]]).is_file(), words[paths[0]]
    if words[:2] == ["accelerate", "launch"]:
        launched = launch_command_parser().parse_args(words[2:])
        assert launched.training_script == words[paths[0]], f"unknown to accelerate launch: {launched.training_script}"
        assert launched.config_file is None or (ROOT / launched.config_file).is_file(), launched.config_file
    _check_recipe(Path(words[paths[0]]).stem.removeprefix("train_"), words[paths[0] + 1 :])


def _check_recipe(script: str, arguments: list[str]) -> None:
    if arguments[0] == "--from-run":
        return
    recipe = recipes_of(script)[arguments[0]]()
    flags = [argument for argument in arguments[1:] if argument != "--help"]
    asked = tyro.cli(type(recipe), args=flags, default=recipe)  # exits on an unknown flag
    check_ranges(asked)
    asked.check()
