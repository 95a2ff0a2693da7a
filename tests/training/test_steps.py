"""--max-steps and --save-every: where a run ends and what it writes on the way, apart from its evaluations."""

from __future__ import annotations

import json

from recipes import frame

import train_cosent

from suzoo.engine import loop
from tests.training.scripts import run

TINY = ["--hidden-size", "32", "--num-layers", "1", "--max-train-samples", "64", "--max-dev-samples", "16"]
TINY += ["--batch-size", "16", "--cpu-threads", "1", "--vocab-size", "300"]


def test_steps_checkpoints_and_evaluations_are_counted_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(frame, "publish", lambda *arguments: None)
    saved, save = [], loop.save_checkpoint

    def note(folder, **options):
        saved.append(folder.name)
        save(folder, **options)

    monkeypatch.setattr(loop, "save_checkpoint", note)
    flags = ["--max-steps", "7", "--save-every", "2", "--evaluate-every", "5", "--epochs", "100"]
    run(monkeypatch, train_cosent, "quickstart", *TINY, *flags, "--output-dir", tmp_path)
    steps = [int(name.removeprefix("step-")) for name in saved if name.startswith("step-")]
    assert steps == [2, 4, 5, 6, 7]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "dev" in line] == [5, 7]
    assert [line["step"] for line in lines if "loss" in line] == [7]  # every tenth, and the last
    settings = json.loads((tmp_path / "run.json").read_text())["settings"]
    assert settings["max_steps"] == 7 and "epochs" not in settings
