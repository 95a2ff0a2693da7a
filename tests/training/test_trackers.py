"""What TensorBoard has of a run that was cut and resumed: each point once, and the hyperparameters."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

from recipes import frame

import pytest
import train_cosent
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from suzoo.engine import RunFolder
from tests.training.scripts import run

TINY = ["--hidden-size", "32", "--num-layers", "1", "--max-train-samples", "96", "--max-dev-samples", "16"]
TINY += ["--batch-size", "16", "--max-steps", "12", "--cpu-threads", "1", "--tracker", "tensorboard"]


class Cut(BaseException):
    """As SIGKILL, the run ends without a word."""


def cut_at(step: int, monkeypatch, *arguments: object) -> None:
    """A run that ends when the tracker has the loss of a step and metrics.jsonl lacks it."""
    write = RunFolder.log

    def log(self, values: dict) -> None:
        if values["step"] == step and "loss" in values:
            raise Cut
        write(self, values)

    with monkeypatch.context() as patch, pytest.raises(Cut):
        patch.setattr(RunFolder, "log", log)
        run(patch, train_cosent, *arguments)


@pytest.mark.parametrize("cut", ["before the first checkpoint", "behind one", "and the newest one is damaged"])
def test_a_resumed_run_sends_each_point_once(tmp_path, monkeypatch, cut):
    monkeypatch.setattr(frame, "publish", lambda *arguments: None)
    every = "12" if cut == "before the first checkpoint" else "4"
    folder = tmp_path / "run"
    flags = ["quickstart", *TINY, "--evaluate-every", every, "--output-dir", folder]
    cut_at(10, monkeypatch, *flags)
    assert [path.name for path in sorted(folder.glob("checkpoints/step-*"))] == (
        [] if every == "12" else ["step-00000004", "step-00000008"]
    )
    if cut == "and the newest one is damaged":
        next(folder.glob("checkpoints/step-00000008/*.safetensors")).write_bytes(b"")
    run(monkeypatch, train_cosent, *flags, "--resume")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    lines = [line | {f"dev/{name}": value for name, value in line.get("dev", {}).items()} for line in lines]
    events = EventAccumulator(str(folder / "suzoo")).Reload()
    for name in ("loss", "lr", "dev/spearman"):
        expected = [(line["step"], pytest.approx(line[name])) for line in lines if name in line]
        assert [(event.step, event.value) for event in events.Scalars(name)] == expected and expected
    (settings,) = (folder / "suzoo").glob("*/hparams.yml")  # once, of the start
    assert "batch_size: 16" in settings.read_text() and "lr: 0.001" in settings.read_text()


def test_a_resumed_run_says_its_flags_again_where_that_is_no_second_set(tmp_path):
    """trackio 0.43 forgets the hyperparameters of a run that it opens again; TensorBoard would have them twice."""
    (tmp_path / "trackers.json").write_text('{"trackio": "run-1"}')
    told, options = [], {}
    trackers = [
        SimpleNamespace(name=name, store_init_configuration=lambda config, name=name: told.append((name, config)))
        for name in ("tensorboard", "trackio")
    ]
    accelerator = SimpleNamespace(
        is_main_process=True, trackers=trackers, init_trackers=lambda name, init_kwargs: options.update(init_kwargs)
    )
    RunFolder(tmp_path, resume=True)._open_trackers(accelerator, {"lr": 0.1, "data": ["a"]})
    assert told == [("trackio", {"lr": 0.1, "data": "['a']"})]
    assert options["trackio"] == {"name": "run-1", "resume": "allow"}


@pytest.mark.parametrize("content", ["[1]", "{", '{"mlflow": 1}'])
def test_a_damaged_list_of_trackers_stops_no_run(tmp_path, monkeypatch, caplog, content):
    path = Path(tmp_path / "trackers.json")
    path.write_text(content)
    assert RunFolder(tmp_path, resume=True)._known_trackers(path) is None
    assert "trackers.json is not what a run wrote" in caplog.text
