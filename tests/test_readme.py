"""The README's code runs as written and prints what it says it prints, in both languages."""

from __future__ import annotations

import re
import sys

from recipes import frame

import numpy as np
import pytest
import train_cosent
from accelerate.state import AcceleratorState

from suzoo import cli
from tests.pages import ROOT, blocks, check_command, commands, run_python

READMES = ["README.md", "README_zh.md"]


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
    assert all(run_python(readme, block, {}) for block in found)


@pytest.mark.parametrize("readme", READMES)
def test_commands_have_the_flags_the_readme_names(workplace, monkeypatch, readme):
    monkeypatch.chdir(workplace)
    (workplace / "texts.txt").write_text("他买了三本书\n今天天气很好\n", encoding="utf-8")
    found = commands(readme)
    (workplace / "vectors.npy").unlink(missing_ok=True)
    for command in found:
        check_command(command)
    encode = next(command for command in found if command[:2] == ["suzoo", "encode"])
    assert cli.main(encode[1:]) == 0 and np.load(workplace / "vectors.npy").shape == (2, 128)
    assert sum("training/train_cosent.py" in command for command in found) == 2
    assert ["pip", "install", "-c", "constraints.txt", "-e", "."] in found and ["pytest"] in found


def test_every_file_the_readmes_link_to_exists():
    for readme in READMES:
        links = re.findall(r"\]\((?!http)([^)#]+)", (ROOT / readme).read_text(encoding="utf-8"))
        assert links and all((ROOT / link).exists() for link in links), readme


def test_every_file_that_methods_md_names_exists():
    paths = re.findall(r"`((?:suzoo|tests)/[\w/.]+)`", (ROOT / "docs/methods.md").read_text(encoding="utf-8"))
    assert len(paths) > 60 and [path for path in paths if not (ROOT / path).exists()] == []
