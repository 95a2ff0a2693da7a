"""What a run leaves: run.json (what was run), metrics.json (what came out), curves.png."""

from __future__ import annotations

import json
import platform
import shlex
import subprocess
import sys
import time
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from suzoo import __version__, terminal
from suzoo.distributed import world_size

TRAINED_ON = {"train", "also"}  # splits
PACKAGES = ("torch", "transformers", "tokenizers", "accelerate", "datasets", "peft", "numpy")


def write_record(
    folder: Path,
    recipe: Any,
    metrics: dict[str, dict[str, float]],
    *,
    script: str,
    provenance: dict[str, dict[str, Any]],
    settings: dict[str, Any] | None = None,
    citations: str = "",
) -> None:
    """Write run.json and metrics.json.

    Args:
        folder: of the run.
        recipe: a dataclass of plain data.
        metrics: split -> name -> number. Cards take their numbers from metrics.json and nowhere else.
        script: path of the training script in the repository.
        provenance: split -> at least {"source", "rows", "sha256"}. A run is synthetic if it was trained on "embedded:"
            sources alone.
        settings: what the model card shows of the recipe; default is all of it.
        citations: BibTeX of the methods used, for the card.
    """
    content = {
        "script": script,
        "command": command_line(script),
        "recipe": asdict(recipe),
        "settings": asdict(recipe) if settings is None else settings,
        "data": provenance,
        "synthetic": all(
            source.startswith("embedded:")
            for split in TRAINED_ON & provenance.keys()
            for source in str(provenance[split]["source"]).split()
        ),
        "git_commit": _git_commit(),
        "citations": citations,
        "versions": versions(),
        "processes": world_size(),
        "threads": torch.get_num_threads(),  # sums are rounded by both
        "date": time.strftime("%Y-%m-%d"),
    }
    write_json(folder / "run.json", content)
    write_json(folder / "metrics.json", metrics)


def versions() -> dict[str, str]:
    """Of suzoo, Python and the packages that decide what comes out."""
    own = {"suzoo": __version__, "python": platform.python_version()}
    return own | {name: metadata.version(name) for name in PACKAGES}


def command_line(script: str) -> str:
    """The command that this run is, for whoever wants to repeat it."""
    if terminal.called_as:
        return shlex.join([*terminal.called_as, *sys.argv[1:]])
    return shlex.join(["accelerate", "launch", script, *sys.argv[1:]])


def draw_curves(lines: list[dict], path: Path) -> None:
    """Training loss and dev scores over steps: one panel for the loss and one for the scores of each size."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    train = [line for line in lines if "loss" in line]
    dev = [line for line in lines if isinstance(line.get("dev"), dict)]
    panels = [("training loss", {"loss": [(line["step"], line["loss"]) for line in train]})] if train else []
    for names in panels_of({name: [line["dev"].get(name) for line in dev] for line in dev for name in line["dev"]}):
        series = {name: [(line["step"], line["dev"][name]) for line in dev if name in line["dev"]] for name in names}
        panels.append((f"dev {names[0]}" if len(names) == 1 else "dev", series))
    if not panels:
        return
    figure, axes = plt.subplots(1, len(panels), figsize=(5 * len(panels), 3.5), squeeze=False)
    for axis, (label, series) in zip(axes[0], panels, strict=True):
        for name, points in series.items():
            style = {"linewidth": 1} if label == "training loss" else {"marker": "o"}
            axis.plot(*zip(*points, strict=True), label=name, **style)
        axis.set(xlabel="step", ylabel=label)
        axis.grid(alpha=0.3)
        if len(series) > 1:
            axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def panels_of(scores: dict[str, list[float | None]]) -> list[list[str]]:
    """Names of scores that can share an axis: shares from -1 to 1 do, and others within a factor of four."""
    sizes = {
        name: max((abs(v) for v in values if v is not None and v == v), default=0.0) for name, values in scores.items()
    }
    panels: list[list[str]] = []
    for name in sorted(sizes, key=lambda name: sizes[name]):
        first = sizes[panels[-1][0]] if panels else 0.0
        if panels and (sizes[name] <= 1 or (first > 1 and sizes[name] <= 4 * first)):
            panels[-1].append(name)
        else:
            panels.append([name])
    return panels


def format_scores(metrics: dict[str, dict[str, float]]) -> str:
    """The numbers as a text table, one line per split."""
    names = list(dict.fromkeys(name for values in metrics.values() for name in values))
    width = max(len(split) for split in metrics)
    widths = {name: max(10, len(name)) for name in names}
    lines = ["  ".join([" " * width, *(f"{name:>{widths[name]}}" for name in names)])]
    for split, values in metrics.items():
        cells = (f"{values[name]:{widths[name]}.4f}" if name in values else " " * widths[name] for name in names)
        lines.append("  ".join([f"{split:<{width}}", *cells]))
    return "\n".join(lines)


def write_json(path: Path, content: Any) -> None:
    """Written beside and renamed into place, so that nobody sees half a file."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)


def _git_commit() -> str | None:
    """Commit of the suzoo checkout, with "+" when it has uncommitted changes; None when installed as a package, and
    without git."""
    folder = Path(__file__).parent
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True)
    except OSError:
        return None
    if commit.returncode:
        return None
    status = subprocess.run(["git", "status", "--porcelain"], cwd=folder, capture_output=True, text=True)
    return commit.stdout.strip() + ("+" if status.stdout.strip() else "")
