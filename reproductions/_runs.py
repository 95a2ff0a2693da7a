"""What the experiments share: train every variant with every seed through the training scripts, and tabulate."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev

ROOT = Path(__file__).resolve().parent.parent


def train(script: str, recipe: str, folder: Path, flags: Sequence[object]) -> dict[str, dict[str, float]]:
    """The scores of one run in `folder`; a run that is finished there is not run again."""
    if not (folder / "metrics.json").exists():
        # without the card and the doors, which say nothing about a method
        code = f"import sys, {script} as s; s.publish = lambda *a: None; s.run_script(s.main)"
        command = [sys.executable, "-c", code, recipe, "--output-dir", str(folder), "--cpu-threads", "1"]
        command += [*("--overwrite" for _ in [0] if folder.exists()), *map(str, flags)]
        path = os.pathsep.join([str(ROOT), str(ROOT / "training")])
        done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{folder.name}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads((folder / "metrics.json").read_text())


def table(
    script: str,
    recipe: str,
    out: Path,
    variants: Mapping[str, Sequence[object]],
    *,
    common: Sequence[object],
    seeds: Sequence[int],
    columns: Mapping[str, tuple[str, str]],
) -> None:
    """Train and print a Markdown table, mean ± standard deviation over the seeds, row by row as they finish.

    Args:
        script: module name of the training script. recipe: its recipe.
        out: folder of the runs.
        variants: name of a row -> flags. common: flags of all rows.
        columns: heading -> (split, metric) in metrics.json.
    """
    print(f"| | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}", flush=True)
    for name, flags in variants.items():
        folder = out / "".join(c if c.isalnum() else "-" for c in name)
        runs = [
            train(script, recipe, folder.with_name(f"{folder.name}-{seed}"), [*common, *flags, "--seed", seed])
            for seed in seeds
        ]
        cells = [spread([run[split][metric] for run in runs]) for split, metric in columns.values()]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def spread(values: Sequence[float]) -> str:
    """.123 ± .004, the standard deviation that of a sample."""
    text = f"{mean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")
    return text.replace("0.", ".")


def write_jsonl(path: Path, rows: Sequence[Mapping]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path
