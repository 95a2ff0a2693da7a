"""What a run must survive: cut off at every instant of an --overwrite, damaged files, kills at random instants."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections import Counter
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from suzoo.engine import RunFolder, lock
from tests.engine.test_loop import Training
from tests.training.scripts import start_script


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


def log_of(folder: Path) -> list[dict]:
    """metrics.jsonl without what the clock says."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if k not in ("steps_per_second", "data_wait")} for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["cosent", "two_tasks", "contrastive", "cross_encoder", "classifier", "dialogpt", "unilm", "tta"]
)
def test_a_run_killed_again_and_again_ends_at_the_same_bits(tmp_path, name, capsys):
    """Kills at random instants, from the first line of `main` to the last one, three to a run, in as many runs as
    SUZOO_KILLS needs; 13 make 104 over all scripts."""
    flags = ["quickstart", "--hidden-size", "32", "--num-layers", "1", "--max-train-samples", "192"]
    flags += ["--max-dev-samples", "16", "--evaluate-every", "2", "--save-every", "1", "--max-steps", "12"]
    flags += ["--cpu-threads", "1"]
    if name in ("dialogpt", "unilm", "tta"):
        flags += ["--max-scored", "2", "--micro-batch-tokens", "512"]
    if name == "classifier":
        flags += ["--max-train-samples", "600"]
    if name == "cross_encoder":
        flags += ["--model", "None"]
    wanted, said = int(os.environ.get("SUZOO_KILLS", "13")), tmp_path / "said"

    def start(folder: Path, *more: str) -> BaseProcess:
        return start_script(f"train_{name}", [*flags, "--output-dir", folder, *more], said)

    def newest(folder: Path) -> str:
        if (folder / "model.safetensors").exists():
            return "a saved model"
        return max((path.name for path in folder.glob("checkpoints/step-*")), default="no checkpoint")

    whole = tmp_path / "whole"
    process, started = start(whole), time.monotonic()
    process.join(600)
    duration = time.monotonic() - started
    assert process.exitcode == 0, said.read_text()[-2000:]
    rng, kills, runs = random.Random(name), [], 0
    while len(kills) < wanted:
        folder = tmp_path / f"cut-{runs}"
        runs += 1
        for _ in range(min(3, wanted - len(kills))):
            process = start(folder, "--resume")
            process.join(rng.uniform(0, duration))
            if process.exitcode is not None:  # it got through before
                break
            process.kill()
            process.join()
            kills.append(newest(folder))
        else:
            process = start(folder, "--resume")
            process.join(600)
        assert process.exitcode == 0, said.read_text()[-2000:]
        for file in ("model.safetensors", "metrics.json", "golden.safetensors"):
            assert (folder / file).read_bytes() == (whole / file).read_bytes(), (file, kills)
        assert log_of(folder) == log_of(whole), kills
    with capsys.disabled():
        where = ", ".join(f"{count} at {place}" for place, count in sorted(Counter(kills).items()))
        print(f"\n{name}: {len(kills)} kills in {runs} runs of {duration:.1f} s; newest there: {where}")
