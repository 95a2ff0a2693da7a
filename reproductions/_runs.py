"""What the experiments share: train every variant with every seed through the training scripts, and tabulate."""

from __future__ import annotations

import importlib
import json
import random
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from statistics import mean, stdev
from typing import Any
from unittest.mock import patch

from accelerate.state import AcceleratorState

sys.path.append(str(Path(__file__).resolve().parent.parent / "training"))


def train(script: str, recipe: str, folder: Path, flags: Sequence[object]) -> dict[str, dict[str, float]]:
    """The scores of one run in `folder`, in this process; a run that is finished there is not run again."""
    if not (folder / "metrics.json").exists():
        module, frame = importlib.import_module(script), importlib.import_module("recipes.frame")
        AcceleratorState._reset_state(reset_partial_state=True)
        options = ["--output-dir", folder, "--cpu-threads", 1, *(["--overwrite"] if folder.exists() else [])]
        sys.argv = [f"{script}.py", recipe, *map(str, [*options, *flags])]
        folder.parent.mkdir(parents=True, exist_ok=True)
        started = time.process_time()
        # card and doors say nothing about a method
        unpublished = patch.object(frame, "publish")
        with (folder.parent / "log.txt").open("a") as log, redirect_stdout(log), redirect_stderr(log), unpublished:
            module.main()
        print(f"{folder.name}: {time.process_time() - started:.0f} s", file=sys.stderr, flush=True)
    return json.loads((folder / "metrics.json").read_text())


def table(
    script: str,
    recipe: str,
    out: Path,
    variants: Mapping[str, Sequence[object]],
    *,
    common: Sequence[object],
    seeds: Sequence[int],
    columns: Sequence[str],
    split: str = "dev",
    header: bool = True,
) -> None:
    """Train and print a Markdown table, mean ± standard deviation over the seeds, row by row as they finish.

    Rows of the same flags share their runs.

    Args:
        script: module name of the training script. recipe: its recipe.
        out: folder of the runs.
        variants: name of a row -> flags. common: flags of all rows.
        columns: metrics of the `split` in metrics.json; `dev: loss` is one of another split.
        header: print the head of the table.
    """
    if header:
        print(f"| | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}", flush=True)
    for name, flags in variants.items():
        folder = out / ("".join(c if c.isalnum() else "-" for c in " ".join(map(str, flags))).strip("-") or "plain")
        runs = [
            train(script, recipe, folder.with_name(f"{folder.name}-{seed}"), [*common, *flags, "--seed", seed])
            for seed in seeds
        ]
        places = [column.rpartition(": ") for column in columns]
        cells = [spread([run[part or split][metric] for run in runs]) for part, _, metric in places]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def start_from(model: Path | None, pretrained: str, scratch: str) -> list[object]:
    """Flags of a run from the weights of a folder, if there is one, or from random weights."""
    return ["--model", model, *pretrained.split()] if model else scratch.split()


def table_of_rates(
    first_rates: Mapping[str, float], accuracy: Callable[[str, float, int], float], seeds: Sequence[int]
) -> None:
    """Print a Markdown table, each row at its own best learning rate.

    With the first seed rates are tried in factors of 3 until both neighbours of the best have been; the best goes on
    with the other seeds.

    Args:
        first_rates: name of a row -> the rate to begin with.
        accuracy: (row, rate, seed) -> what a run reaches.
    """

    def rate(name: str, power: int) -> float:
        return float(f"{first_rates[name] * 3.0**power:.3g}")

    first, *others = seeds
    print("| | accuracy by rate (first seed) | best rate | all seeds |\n|---|---|---|---|", flush=True)
    for name in first_rates:
        tried: dict[int, float] = {}  # power of 3 that the first rate is multiplied by -> accuracy
        best = 0
        while not {best - 1, best, best + 1} <= tried.keys():
            for power in (best, best - 1, best + 1):
                tried[power] = tried[power] if power in tried else accuracy(name, rate(name, power), first)
            best = max(tried, key=lambda power: tried[power])
        cells = ", ".join(f"{rate(name, power):.1g}: {found:.3f}" for power, found in sorted(tried.items()))
        found = [tried[best], *(accuracy(name, rate(name, best), seed) for seed in others)]
        print(f"| {name} | {cells} | {rate(name, best):.1g} | {spread(found)} |", flush=True)


def spread(values: Sequence[float]) -> str:
    """.123 ± .004, the standard deviation that of a sample."""
    text = f"{mean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")
    return re.sub(r"\b0\.", ".", text)


def one_in_five_kept(data: Path, out: Path) -> tuple[Path, Path]:
    """Files in `out` to train on and to score, from texts with a class each, every text once."""
    from suzoo.data import read_classes

    texts = {row.text: row.labels[0] for row in read_classes(data)}
    rows = [{"text": text, "label": label} for text, label in texts.items()]
    random.Random(0).shuffle(rows)
    num_dev = len(rows) // 5
    return write_jsonl(out / "train.jsonl", rows[num_dev:]), write_jsonl(out / "dev.jsonl", rows[:num_dev])


def digits(seed: int) -> tuple[Any, Any]:
    """scikit-learn's handwritten digits, (N, 8, 8) from 0 to 1, and their classes (N,), in an order of the seed."""
    import torch
    from sklearn.datasets import load_digits

    found = load_digits()
    order = torch.randperm(len(found.target), generator=torch.Generator().manual_seed(seed))
    return torch.tensor(found.images).float()[order] / 16, torch.tensor(found.target)[order]


def write_jsonl(path: Path, rows: Sequence[Mapping]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path
