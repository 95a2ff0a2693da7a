"""The pages of the optimizers: every code block runs as written, in the order of its page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from suzoo import optimizers
from tests.optimizers import _signum

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted((DOCS / "optimizers").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_code_block_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert blocks
    names: dict = {}
    with torch.random.fork_rng():
        for block in blocks:
            exec(compile(block, page.name, "exec"), names)


def test_every_optimizer_has_a_page_that_the_overview_links():
    overview = (DOCS / "optimizers.md").read_text(encoding="utf-8")
    for name in optimizers.__all__:
        thing = getattr(optimizers, name)
        if not (isinstance(thing, type) and issubclass(thing, torch.optim.Optimizer)):
            continue
        page = thing.__module__.rsplit(".", 1)[1]
        assert f"(optimizers/{page}.md)" in overview
        text = (DOCS / "optimizers" / f"{page}.md").read_text(encoding="utf-8")
        assert all(part in text for part in ("The article's claim.", "What we measured.", "| option |", "State"))


def test_contributing_shows_the_smallest_optimizer():
    text = (DOCS.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(from suzoo\.optimizers\._driver.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert block in Path(_signum.__file__).read_text(encoding="utf-8")
