"""What a run must survive: cut off at every instant of an --overwrite, damaged files, kills at random instants."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from suzoo.engine import RunFolder, lock
from tests.engine.test_loop import Training

ROOT = Path(__file__).parent.parent.parent


class Killed(BaseException):
    pass


@dataclass
class Flags:
    lr: float = 0.1


def replace_the_run(folder: Path) -> None:
    run = RunFolder(folder, overwrite=True)
    run.begin(Accelerator(cpu=True), Flags(), {})
    (run.checkpoints / "step-00000001").mkdir()
    run.prune(1, None)


def killed_at(monkeypatch, instant: int, work) -> bool:
    """Whether `work` was cut off before its `instant`-th change of the disk; a deletion is many changes."""
    calls = []

    def counted(change):
        def changed(*arguments, **options):
            calls.append(1)
            if len(calls) == instant:
                raise Killed
            return change(*arguments, **options)

        return changed

    with monkeypatch.context() as patch:
        for name in ("rename", "replace", "mkdir", "unlink", "touch", "write_text"):
            patch.setattr(Path, name, counted(getattr(Path, name)))
        for name in ("unlink", "rmdir"):  # shutil.rmtree calls these, file by file
            patch.setattr(os, name, counted(getattr(os, name)))
        try:
            work()
        except Killed:
            return True
        finally:
            lock.release_all()  # as the end of the process does
    return False


def whole_model_in(folder: Path) -> bool:
    return all((folder / name).exists() for name in ("run.json", "model.safetensors", "checkpoints/best-00000003/x"))


def keeps_something(folder: Path) -> bool:
    """The old model, or the first checkpoint of the new run."""
    return whole_model_in(folder) or (folder / "checkpoints/step-00000001").exists()


def test_an_overwrite_cut_off_at_any_instant_loses_no_model(tmp_path, monkeypatch):
    instant, cut = 0, True
    while cut:
        instant += 1
        folder = tmp_path / str(instant) / "run"
        (folder / "checkpoints/best-00000003").mkdir(parents=True)
        for name in ("run.json", "model.safetensors", "config.json", "checkpoints/best-00000003/x"):
            (folder / name).write_text("old")
        cut = killed_at(monkeypatch, instant, lambda folder=folder: replace_the_run(folder))
        replaced = folder.with_name(".run.replaced")
        assert keeps_something(folder) or keeps_something(replaced), f"instant {instant}"
        assert not replaced.exists() or whole_model_in(replaced), f"instant {instant}: half a run looks like one"
        # again, also cut off anywhere: still nothing is lost, and at last it goes through
        second = random.Random(instant).randrange(1, 30)
        killed_at(monkeypatch, second, lambda folder=folder: replace_the_run(folder))
        assert keeps_something(folder) or keeps_something(replaced), f"instants {instant}, {second}"
        replace_the_run(folder)
        assert (folder / "checkpoints/step-00000001").exists() and not replaced.exists()
    assert instant > 15


def test_what_an_overwrite_set_aside_comes_back_with_resume(tmp_path):
    folder = tmp_path / "run"
    (folder / "checkpoints/step-00000003").mkdir(parents=True)
    (folder / "run.json").write_text("{}")
    folder.rename(tmp_path / ".run.replaced")  # as when it was cut off right there
    run = RunFolder(folder, resume=True)
    assert (run.path / "run.json").exists() and not (tmp_path / ".run.replaced").exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the other process is a fork")
def test_a_folder_in_use_is_refused_and_a_dead_process_holds_none(tmp_path):
    read, write = os.pipe()
    other = os.fork()
    if not other:
        (tmp_path / "run").mkdir()
        lock.hold(tmp_path / "run")
        os.write(write, b"1")
        signal.pause()
    assert os.read(read, 1) == b"1"
    with pytest.raises(ValueError, match="another run is writing to"):
        RunFolder(tmp_path / "run")
    os.kill(other, signal.SIGKILL)
    os.waitpid(other, 0)
    RunFolder(tmp_path / "run")


def damage(path: Path, rng: random.Random) -> str:
    content = path.read_bytes()
    kind = rng.choice(["flip", "cut", "empty", "gone", "other", "null"])
    if kind == "flip" and content:
        place = rng.randrange(len(content))
        path.write_bytes(content[:place] + bytes([content[place] ^ (1 << rng.randrange(8))]) + content[place + 1 :])
    elif kind == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "gone":
        path.unlink()
    else:
        path.write_bytes({"other": b"[1, 2]", "null": b"null"}.get(kind, b""))
    return f"{kind} {path.name}"


SCORES = [0.1, 0.3, 0.2, 0.25]


@pytest.mark.parametrize("count", [30, pytest.param(200, marks=pytest.mark.slow)])
def test_no_damaged_file_is_used(tmp_path, count, caplog):
    """One file of a run is damaged: the end is the same to the bit, or a sentence says what is damaged."""
    whole = Training(tmp_path / "whole", scores=SCORES)
    whole.fit()
    stopped = Training(
        tmp_path / "cut",
        scores=SCORES,
        on_step=lambda step: os.kill(os.getpid(), signal.SIGTERM) if step == 17 else None,
    )
    with pytest.raises(SystemExit):
        stopped.fit()
    stopped.run.begin(stopped.accelerator, Flags(), {})
    rng = random.Random(0)
    used = 0
    for number in range(count):
        folder = tmp_path / str(number)
        shutil.copytree(tmp_path / "cut", folder)
        files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != ".lock")
        damaged = rng.choice(files)
        what = f"{damage(damaged, rng)} of {damaged.parent.name}"
        caplog.clear()
        again = Training(folder, resume=True, scores=SCORES)
        try:
            again.run.begin(again.accelerator, Flags(), {})
            state = again.run.newest_checkpoint()
            again.steps = int(state.name.removeprefix("step-"))
            again.fit()
        except ValueError as error:
            assert "damaged" in str(error) or "whole" in str(error), what
            continue
        used += 1
        same = torch.equal(again.model.weight, whole.model.weight)
        assert same or "the weights of the last step, 20, take its place" in caplog.text, what
        losses = [{line["step"]: line["loss"] for line in t.run.read_log() if "loss" in line} for t in (whole, again)]
        assert all(losses[0][step] == loss for step, loss in losses[1].items()), what
    assert used > count * 0.8


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["cosent", "two_tasks", "contrastive", "cross_encoder", "classifier", "dialogpt", "unilm", "tta"]
)
def test_a_run_killed_again_and_again_ends_at_the_same_bits(tmp_path, name):
    """Kills at random instants, also while it starts, saves and verifies, until it gets through."""
    flags = ["quickstart", "--hidden-size", "32", "--num-layers", "1", "--max-train-samples", "192"]
    flags += ["--max-dev-samples", "16", "--evaluate-every", "2", "--save-every", "1", "--max-steps", "12"]
    flags += ["--cpu-threads", "1"]
    if name in ("dialogpt", "unilm", "tta"):
        flags += ["--max-scored", "2", "--micro-batch-tokens", "512"]
    script = ROOT / f"training/train_{name}.py"

    def start(folder: Path, *more: str) -> subprocess.Popen:
        command = [sys.executable, str(script), *flags, "--output-dir", str(folder), *more]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    started = time.monotonic()
    whole = start(tmp_path / "whole")
    assert whole.wait(600) == 0, whole.stderr.read()
    duration = time.monotonic() - started
    rng, kills = random.Random(name), 0
    while True:
        process = start(tmp_path / "cut", "--resume")
        try:
            process.wait(rng.uniform(0.3, 1.0) * duration if kills < 12 else 600)
            assert process.returncode == 0, process.stderr.read()
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            kills += 1
    for file in ("model.safetensors", "metrics.json"):
        assert (tmp_path / "cut" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), (file, kills)
