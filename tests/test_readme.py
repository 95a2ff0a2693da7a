"""The README's code runs as written and prints what it says it prints, in both languages."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import sys
from pathlib import Path

from recipes import frame
from recipes.cosent import RECIPES

import numpy as np
import pytest
import train_cosent
import tyro
from accelerate.state import AcceleratorState

from suzoo import cli

ROOT = Path(__file__).parent.parent
READMES = ["README.md", "README_zh.md"]


def blocks(readme: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / readme).read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with out/quickstart, made by the README's recipe cut short."""
    folder = tmp_path_factory.mktemp("readme")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(frame, "publish", lambda *args: None)
        patch.setattr(
            sys,
            "argv",
            ["train_cosent.py", "quickstart", "--epochs", "0.1", "--max-dev-samples", "64", "--cpu-threads", "1"],
        )
        AcceleratorState._reset_state(reset_partial_state=True)
        train_cosent.main()
    return folder


@pytest.mark.parametrize("readme", READMES)
def test_python_blocks_print_what_they_say(workplace, monkeypatch, readme):
    monkeypatch.chdir(workplace)
    found = blocks(readme, "python")
    assert len(found) == 3
    for block in found:
        said = "\n".join(line.removeprefix("# ") for line in block.splitlines() if line.startswith("# "))
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(block, readme, "exec"), {})
        assert said and printed.getvalue().strip() == said


@pytest.mark.parametrize("readme", READMES)
def test_commands_have_the_flags_the_readme_names(workplace, monkeypatch, readme):
    monkeypatch.chdir(workplace)
    (workplace / "texts.txt").write_text("他买了三本书\n今天天气很好\n", encoding="utf-8")
    text = "\n".join(blocks(readme, "bash")).replace("\\\n", " ")
    commands = [shlex.split(command) for line in text.splitlines() for command in line.split("&&") if command.strip()]
    (workplace / "vectors.npy").unlink(missing_ok=True)
    for command in commands:
        if command[0] == "suzoo":
            cli._parser().parse_args(command[1:])  # exits on an unknown flag
    encode = next(command for command in commands if command[:2] == ["suzoo", "encode"])
    assert cli.main(encode[1:]) == 0 and np.load(workplace / "vectors.npy").shape == (2, 128)
    scripts = [command for command in commands if "training/train_cosent.py" in command]
    assert len(scripts) == 2
    for command in scripts:
        recipe, *flags = command[command.index("training/train_cosent.py") + 1 :]
        tyro.cli(type(RECIPES[recipe]()), args=flags)  # exits on an unknown flag
    assert ["pip", "install", "-c", "constraints.txt", "-e", "."] in commands and ["pytest"] in commands


def test_every_file_the_readmes_link_to_exists():
    for readme in READMES:
        links = re.findall(r"\]\((?!http)([^)#]+)", (ROOT / readme).read_text(encoding="utf-8"))
        assert links and all((ROOT / link).exists() for link in links), readme


def test_every_file_that_methods_md_names_exists():
    paths = re.findall(r"`((?:suzoo|tests)/[\w/.]+)`", (ROOT / "docs/methods.md").read_text(encoding="utf-8"))
    assert len(paths) > 60 and [path for path in paths if not (ROOT / path).exists()] == []
