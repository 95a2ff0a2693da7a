"""`suzoo compare`: what differs between runs, in recipe, data, versions and scores."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

MISSING = "-"
PLACES = {"output_dir", "overwrite", "resume", "push_to", "tracker", "quiet"}  # they say where, not what


def compare(options: argparse.Namespace) -> int:
    if len(options.folders) < 2:
        raise ValueError("give two runs or more")
    runs = [_read_run(folder) for folder in options.folders]
    names = _short_names(options.folders)
    for title in ("recipe", "data", "versions", "scores"):
        print(f"{title}: {_differences([run[title] for run in runs], names, with_change=title == 'scores')}")
    return 0


def _read_run(folder: str) -> dict[str, dict[str, Any]]:
    """{section: {name: value}} of a finished run, or of one under way, which has no scores yet."""
    path = Path(folder)
    if not path.is_dir():
        raise ValueError(f"{folder} is not a folder")
    if (path / "run.json").is_file():
        run, scores = _read(path / "run.json"), _read(path / "metrics.json")
    elif (path / "checkpoints" / "began.json").is_file():
        began = _read(path / "checkpoints" / "began.json")
        run, scores = {"recipe": began.get("flags"), "data": began.get("data")}, {}
    else:
        raise ValueError(f"{folder} holds no run: it has neither run.json nor checkpoints/began.json")
    recipe, data, versions = run.get("recipe"), run.get("data"), run.get("versions", {})
    if not (isinstance(recipe, dict) and isinstance(data, dict) and isinstance(versions, dict)):
        raise ValueError(f"{path / 'run.json'} is not what a run writes")
    commit = {"git_commit": run["git_commit"]} if run.get("git_commit") else {}
    return {
        "recipe": {name: value for name, value in recipe.items() if name not in PLACES},
        "data": _flat(data),
        "versions": versions | commit,
        "scores": _flat(scores),
    }


def _read(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not what a run writes: give the folder of a training run")
    return content


def _flat(splits: dict[str, Any]) -> dict[str, Any]:
    """{"dev spearman": 0.8} of {"dev": {"spearman": 0.8}}."""
    return {
        f"{split} {name}": value
        for split, values in splits.items()
        if isinstance(values, dict)
        for name, value in values.items()
    }


def _differences(sections: list[dict[str, Any]], names: list[str], with_change: bool) -> str:
    """The rows that differ as a table, behind a line that counts the others."""
    keys = list(dict.fromkeys(key for section in sections for key in section))
    differing = [key for key in keys if any(s.get(key, MISSING) != sections[0].get(key, MISSING) for s in sections)]
    equal = len(keys) - len(differing)
    if not differing:
        return f"all {equal} equal" if equal else "none"
    rows = [["", *names, *(["change"] if with_change and len(names) == 2 else [])]]
    for key in differing:
        values = [section.get(key, MISSING) for section in sections]
        change = [_change(*values)] if len(rows[0]) > len(names) + 1 else []
        rows.append([key, *map(_shown, values), *change])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([f"{len(differing)} differ, {equal} equal", *(f"  {line}" for line in lines), ""])


def _change(first: Any, second: Any) -> str:
    are_numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (first, second))
    return f"{second - first:+.4f}" if are_numbers else ""


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    is_digest = len(text) in (40, 41, 64) and not set(text) - set("0123456789abcdef+")
    return text[:12] if is_digest else text


def _short_names(folders: list[str]) -> list[str]:
    """The last parts of the paths, as few as tell them apart."""
    parts = [Path(folder).resolve().parts for folder in folders]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise ValueError("a run is the same as itself: give different folders")


def add_commands(command) -> None:
    sub = command("compare", compare, "What differs between runs: recipe, data, versions and scores.")
    sub.add_argument("folders", nargs="+", metavar="FOLDER", help="output folders of runs, finished or under way")
