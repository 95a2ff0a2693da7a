"""The import rules of CONTRIBUTING.md, read from the syntax trees."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
METHOD_FOLDERS = {"losses", "optimizers", "regularizers", "multitask", "decoding", "data", "analysis", "evaluation"}
HUB_SAFE_PACKAGES = set(sys.stdlib_module_names) | {
    "torch",
    "transformers",
    "huggingface_hub",
    "safetensors",
    "numpy",
    "tqdm",
}
SOURCES = sorted((ROOT / "suzoo").rglob("*.py"))


def imports(path: Path) -> list[tuple[str, int, list[str]]]:
    """(module, relative level, imported names) of every import statement, wherever it stands in the file."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(alias.name, 0, []) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.module or "", node.level, [alias.name for alias in node.names]))
    return found


def own_modules(path: Path) -> set[str]:
    """Dotted names below suzoo that the file imports, relative imports resolved."""
    package = list(path.relative_to(ROOT).with_suffix("").parts[:-1])
    modules = set()
    for module, level, names in imports(path):
        base = package[: len(package) - level + 1] if level else []
        full = ".".join([*base, module]).strip(".")
        if full == "suzoo" or full in {f"suzoo.{f}" for f in METHOD_FOLDERS | {"models"}}:
            modules |= {f"{full}.{name}" for name in names} or {full}
        elif full.startswith("suzoo."):
            modules.add(full)
    return {module.removeprefix("suzoo.") for module in modules}


def is_leaf(module: str) -> bool:
    return module in ("distributed", "terminal", "chinese", "reach") or module.startswith("models._")


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_follow_the_layout(path):
    folder = path.relative_to(ROOT / "suzoo").parts[0]
    foreign = {m for m in own_modules(path) if m.split(".")[0] != folder and not is_leaf(m) and m != "__version__"}
    if folder in METHOD_FOLDERS:
        assert not foreign, f"{folder} may import only suzoo.distributed and suzoo.models._*: {foreign}"
    elif folder == "engine":
        assert not foreign, f"engine knows no model and no method: {foreign}"
    elif folder == "hub":
        allowed = {m for m in foreign if m.split(".")[0] == "models"}
        assert not foreign - allowed, f"hub imports models only, not {foreign - allowed}"
        if path.parent.name == "verify":
            beyond = [m for m, level, _ in imports(path) if level > 1 or (not level and m.split(".")[0] == "suzoo")]
            assert not beyond, f"hub/verify must run where suzoo is not installed: {beyond}"


@pytest.mark.parametrize("path", sorted((ROOT / "suzoo/models").glob("*.py")), ids=lambda p: p.name)
def test_hub_safe_zone(path):
    if path.name == "__init__.py":
        return
    text = path.read_text()
    for module, level, _ in imports(path):
        if level:
            assert level == 1 and module and "." not in module, (
                f"{path.name}: only `from ._sibling import name` travels"
            )
            assert (path.parent / f"{module}.py").exists()
        else:
            assert module.split(".")[0] in HUB_SAFE_PACKAGES, (
                f"{path.name} imports {module}: not on a Hub user's machine"
            )
    # transformers finds the files to copy with a regular expression that also reads docstrings
    statements = {m for m, level, _ in imports(path) if level}
    assert set(re.findall(r"^\s*from\s+\.(\S+)\s+import", text, re.MULTILINE)) <= statements
    assert not re.search(r"^\s*(import|from)\s+suzoo", text, re.MULTILINE)


@pytest.mark.parametrize("path", sorted((ROOT / "training").glob("train_*.py")), ids=lambda p: p.name)
def test_scripts_can_be_copied(path):
    """Short, and no import of what may change from one version to the next."""
    private = {module for module, _, _ in imports(path) if "._" in f".{module}" and module != "__future__"}
    assert not private, f"{path.name} imports {private}"
    assert len(path.read_text().splitlines()) < 140


def test_models_folder_is_flat():
    assert not [p for p in (ROOT / "suzoo/models").iterdir() if p.is_dir() and p.name != "__pycache__"]


def test_every_folder_is_a_package():
    folders = {path.parent for path in SOURCES}
    assert all((folder / "__init__.py").exists() for folder in folders)
