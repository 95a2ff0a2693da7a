"""The notebooks: small, whole, with the outputs of a run; and, under `slow`, run anew."""

from __future__ import annotations

import ast
import json
import os
import re
from pathlib import Path

import pytest

from tests.pages import ROOT

FOLDER = ROOT / "docs/notebooks"
NOTEBOOKS = sorted(path.name for path in FOLDER.glob("*.ipynb"))
UNCERTAIN = re.compile(r"-?\d+\.\d+")  # numbers of trained models differ from machine to machine


def cells(path: Path, kind: str) -> list[dict]:
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == kind]


def printed(cell: dict) -> str:
    return "".join("".join(output["text"]) for output in cell["outputs"] if output.get("name") == "stdout")


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_small_and_was_run_from_the_top(name):
    path = FOLDER / name
    assert path.stat().st_size < 30_000
    for number, cell in enumerate(cells(path, "code"), 1):
        assert cell["execution_count"] == number
        assert not [one for one in cell["outputs"] if one["output_type"] == "error" or one.get("name") == "stderr"]
        source = "".join(cell["source"])
        if not source.startswith("!"):
            ast.parse(source)
    for cell in cells(path, "markdown"):
        for link in re.findall(r"\]\(([^)#:]+)\)", "".join(cell["source"])):
            assert (FOLDER / link).is_file(), link


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs_and_says_what_it_said(name, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="running notebooks needs nbclient and ipykernel")
    nbformat = pytest.importorskip("nbformat")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(FOLDER / name, as_version=4)
    nbclient.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()
    said = [printed(cell) for cell in cells(FOLDER / name, "code")]
    says = [printed(cell) for cell in notebook.cells if cell["cell_type"] == "code"]
    if name != "a_chat_model.ipynb":  # whose replies are those of a model that hardly learned
        assert [UNCERTAIN.sub("", text).split() for text in says] == [UNCERTAIN.sub("", text).split() for text in said]
