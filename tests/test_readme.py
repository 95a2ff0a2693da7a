"""The README's code runs as written and prints what it says it prints, in both languages."""

from __future__ import annotations

import importlib
import re
import sys

from recipes import frame, zoo

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
    assert len(found) == 4
    assert all(run_python(readme, block, {}) for block in found)


@pytest.mark.parametrize("readme", READMES)
def test_commands_have_the_flags_the_readme_names(workplace, monkeypatch, readme):
    monkeypatch.chdir(workplace)
    (workplace / "texts.txt").write_text("他买了三本书\n今天天气很好\n", encoding="utf-8")
    found = commands(readme)
    for command in found:
        check_command(command)
    for model, written, size in (
        ("embedded:cosent-zh-mini", "embedded.npy", 384),
        ("out/quickstart", "vectors.npy", 128),
    ):
        (workplace / written).unlink(missing_ok=True)
        (encode,) = (command for command in found if command[:3] == ["suzoo", "encode", model])
        assert cli.main(encode[1:]) == 0 and np.load(workplace / written).shape == (2, size)
    assert sum("training/train_cosent.py" in command for command in found) == 1
    assert ["pip", "install", "-c", "constraints.txt", "-e", "."] in found and ["pytest"] in found


def test_every_file_the_readmes_link_to_exists():
    for readme in READMES:
        links = re.findall(r"\]\((?!http)([^)#]+)", (ROOT / readme).read_text(encoding="utf-8"))
        assert links and all((ROOT / link).exists() for link in links), readme


def test_every_file_that_methods_md_names_exists():
    paths = re.findall(r"`((?:suzoo|tests)/[\w/.]+)`", (ROOT / "docs/methods.md").read_text(encoding="utf-8"))
    assert len(paths) > 60 and [path for path in paths if not (ROOT / path).exists()] == []


def rows_of(page: str, heading: str) -> list[list[str]]:
    """Cells of the first table under a heading, without its head."""
    text = (ROOT / page).read_text(encoding="utf-8")
    lines = text.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")][2:]


def test_the_table_of_methods_is_true_and_the_same_in_both_languages():
    found = rows_of("README.md", "Methods")
    packages = ("losses", "optimizers", "regularizers", "multitask", "decoding", "analysis", "models")
    public = {name for package in packages for name in importlib.import_module(f"suzoo.{package}").__all__}
    articles = (ROOT / "docs/methods.md").read_text(encoding="utf-8")
    losses = (ROOT / "docs/losses.md").read_text(encoding="utf-8")  # of all families
    for _, names, sources, page in found:
        named = {name for name in re.findall(r"`([^`]+)`", names)[0].split() if not name.startswith("--")}
        assert named <= public, named - public
        assert all(number in articles for number in re.findall(r"archives/(\d+)", sources))
        (page,) = re.findall(r"\]\((.+)\)", page)
        text = (ROOT / page).read_text(encoding="utf-8")
        assert not named or any(name in text or name in losses for name in named), page
    pages = {path.as_posix() for path in (ROOT / "docs/methods").glob("*.md")}
    assert pages <= {(ROOT / re.findall(r"\]\((.+)\)", row[3])[0]).as_posix() for row in found}

    def code(rows):
        return [[re.findall(r"`[^`]+`", row[1]), row[2], re.findall(r"\(.+\)", row[3])] for row in rows]

    assert code(rows_of("README_zh.md", "方法")) == code(found)


@pytest.mark.parametrize(("readme", "heading"), [("README.md", "The zoo"), ("README_zh.md", "模型库（zoo）")])
def test_the_table_of_the_zoo_has_the_numbers_of_its_page(readme, heading):
    page = (ROOT / "docs/zoo.md").read_text(encoding="utf-8").replace("*", "")
    for member, _, *scores in rows_of(readme, heading):
        assert member.strip("`") in zoo.MEMBERS
        (row,) = re.findall(rf"^\| {member} \|(?=.*\.\d{{4}} \|)(.+)$", page, re.MULTILINE)
        assert all(score in row for score in scores), member
