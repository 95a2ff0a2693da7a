"""Which Python code a saved model would run, and whether it is suzoo's own.

`trust_remote_code=True` runs what `auto_map` names in the folder's JSON files, with the modules beside it that it
imports, and `custom_generate/generate.py`; sentence-transformers before 6.0 also runs the modules that a local folder's
`modules.json` names. Code is ours when it is byte for byte that of the suzoo this file belongs to; where it belongs to
none, nothing is ours.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

PLAIN = r"(\w+)\.\w+"
OURS = Path(__file__).resolve().parents[2] / "models"
# large, and never with an auto_map
NO_SETTINGS = ("tokenizer.json", "vocab.json", "*.index.json", "run.json", "metrics.json")


def foreign_code(folder: str | Path) -> str:
    """What `trust_remote_code=True` would run of this folder and is not ours, "" where there is nothing."""
    folder = Path(folder)
    if (folder / "custom_generate").exists():
        return "custom_generate/ brings code that is not suzoo's"
    if (folder / "adapter_config.json").exists():  # the base model would be opened with the same trust
        return "adapter_config.json names a base model, whose code is not in the folder"
    for path, reference in _references_of(folder):
        if not re.fullmatch(PLAIN, reference):  # of another repository, or of another folder
            return f"{path.name} names code that is not in the folder: {reference}"
    for name in named_modules(folder):
        if not _same(folder / name, OURS / name):
            return f"{name} is not that of the installed suzoo"
    return ""


def named_modules(folder: str | Path) -> list[str]:
    """The files of Python code that the folder's `auto_map` names, and those beside them that they import."""
    folder = Path(folder)
    todo = [plain[1] for _, reference in _references_of(folder) if (plain := re.fullmatch(PLAIN, reference))]
    found: set[str] = set()
    while todo:
        name = todo.pop()
        path = folder / f"{name}.py"
        if name not in found and path.is_file():
            text = path.read_text(encoding="utf-8", errors="replace")
            todo += re.findall(r"^\s*from\s+\.(\w+)\s+import", text, re.MULTILINE)
        found.add(name)
    return sorted(f"{name}.py" for name in found)


def foreign_modules(folder: str | Path) -> str:
    """The module outside sentence-transformers that `modules.json` names, "" where there is none."""
    modules = _read(Path(folder) / "modules.json")
    entries = modules if isinstance(modules, list) else []
    kinds = [str(entry.get("type")) for entry in entries if isinstance(entry, dict)]
    foreign = next((kind for kind in kinds if not kind.startswith("sentence_transformers.")), "")
    return foreign and f"modules.json names code that is not sentence-transformers': {foreign}"


def _read(path: Path) -> object:
    """Contents of a JSON file; None for what cannot be read, which no library reads either."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def _references_of(folder: Path) -> Iterator[tuple[Path, str]]:
    """(file, "module.Class") of every `auto_map` in the folder's JSON files."""
    for path in sorted(folder.glob("*.json")):
        if not any(path.match(pattern) for pattern in NO_SETTINGS):
            for reference in _references(_read(path)):
                yield path, reference


def _references(settings: object) -> Iterator[str]:
    """Every "module.Class" below an `auto_map`, however deep."""
    if isinstance(settings, dict):
        for name, value in settings.items():
            yield from _texts(value) if name == "auto_map" else _references(value)
    elif isinstance(settings, list):
        for value in settings:
            yield from _references(value)


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part)


def _same(one: Path, other: Path) -> bool:
    return one.is_file() and other.is_file() and one.read_bytes() == other.read_bytes()
