"""What the files of a folder say of each other, before any library opens them."""

from __future__ import annotations

import json
from pathlib import Path

from .trust import named_modules


def open_files(folder: str, promise: dict) -> dict:
    """Raises where a file names another that is not there; there are no numbers to give.

    Raises:
        ValueError: the first such name, or a settings file that is not JSON.
    """
    here = Path(folder)
    for name in ("config.json", "generation_config.json", "tokenizer_config.json", "modules.json"):
        _read(here / name)
    for module in named_modules(here):
        if not (here / module).is_file():
            raise ValueError(
                f"an auto_map names {module}, which is not in the folder: trust_remote_code=True would fail"
            )
    for module in _read(here / "modules.json") or []:
        needed = here / module["path"] / "config.json"
        if not module["type"].endswith(".Normalize") and not needed.is_file():
            raise ValueError(f"modules.json names {needed.relative_to(here)}, which is missing")
    return {}


def _read(path: Path):
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path.name} is not JSON ({error})") from error
