"""The pictures of the docs are what their scripts make, and small."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "docs/figures"
SCRIPTS = sorted(path.stem for path in FOLDER.glob("[a-z]*.py"))
NUMBER = re.compile(r"(?<![\w#])-?\d+(?:\.\d+)?(?![\w%])")
NEAR = 1.5  # pixels: float32 adds up otherwise on another processor


def test_every_script_has_its_picture():
    assert sorted(path.stem for path in FOLDER.glob("*.svg")) == SCRIPTS and len(SCRIPTS) >= 8


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_picture_is_what_its_script_makes(name, monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    made = str(importlib.import_module(name).draw())
    sys.modules.pop(name)
    kept = (FOLDER / f"{name}.svg").read_text(encoding="utf-8")
    colourless = [re.sub(r"#[0-9a-f]{6}", "#", NUMBER.sub("0", text)) for text in (made, kept)]
    assert colourless[0] == colourless[1], f"python docs/figures/{name}.py makes the picture anew"
    numbers = [[float(number) for number in NUMBER.findall(text)] for text in (made, kept)]
    assert max(abs(one - other) for one, other in zip(*numbers, strict=True)) <= NEAR
    assert len(kept) < 20_000
