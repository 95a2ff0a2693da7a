"""The constraints files say what pyproject.toml says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from suzoo.models._oldest import OLDEST

ROOT = Path(__file__).parent.parent
BUILD_TOOLS = ("ruff", "hatchling", "mkdocs-material", "mkdocstrings")  # they check and build, nothing imports them


def declared() -> dict[str, Requirement]:
    """Every library that pyproject.toml gives a lower bound, also in its extras."""
    texts = re.findall(r'"([A-Za-z][\w.-]*(?:\[\w+\])?>=[^"]+)"', (ROOT / "pyproject.toml").read_text())
    return {canonicalize_name(one.name): one for one in map(Requirement, texts)}


def pinned(name: str) -> dict[str, Version]:
    lines = (ROOT / name).read_text().splitlines()
    pairs = (line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    return {canonicalize_name(library): Version(version) for library, version in pairs}


def test_the_lowest_versions_are_pinned_as_declared():
    pins = pinned("constraints-lower.txt")
    for name, requirement in declared().items():
        (lowest,) = (part.version for part in requirement.specifier if part.operator == ">=")
        if name not in BUILD_TOOLS:
            assert pins.get(name) == Version(lowest), f"{name}>={lowest}"


@pytest.mark.parametrize("name", ["constraints.txt", "constraints-lower.txt", "constraints-newest.txt"])
def test_what_is_pinned_is_within_what_is_declared(name):
    for library, requirement in declared().items():
        version = pinned(name).get(library)
        assert version is None or requirement.specifier.contains(version), f"{library} {version}"


def test_the_code_in_folders_needs_no_newer_transformers_than_the_package():
    (lowest,) = (part.version for part in declared()["transformers"].specifier if part.operator == ">=")
    assert Version(OLDEST) <= Version(lowest)
