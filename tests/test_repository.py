"""The files beside the code say what the code says: version, workflows, links."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from suzoo import __version__

ROOT = Path(__file__).parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob(".github/**/*.md")])


def test_one_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == __version__
    assert re.search(rf"^## {re.escape(__version__)}\b", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_run_what_is_here(path):
    workflow = yaml.safe_load(path.read_text())
    jobs = workflow["jobs"]
    for job in jobs.values():
        for needed in [job["needs"]] if "needs" in job else []:
            assert needed in jobs
        if "uses" in job:
            assert (ROOT / job["uses"]).is_file()
        for command in (step["run"] for step in job.get("steps", []) if "run" in step):
            for script in re.findall(r"(?<!\S)\.ci/\S+", command):
                assert (ROOT / script).is_file()
        for versions in job.get("strategy", {}).get("matrix", {}).get("versions", []):
            assert (ROOT / f"constraints-{versions}.txt").is_file()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files(path):
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:|#", target):
            assert (path.parent / target.split("#")[0]).exists(), target
