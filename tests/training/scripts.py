"""Run a training script inside the test process, as a user runs it on the command line, or on two ranks."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from pathlib import Path
from types import ModuleType

from recipes import frame

import pytest
import torch
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.state import AcceleratorState
from accelerate.utils.launch import prepare_multi_gpu_env
from safetensors.torch import load_file

from suzoo.engine import run_script
from tests.ranks import event, fork, run_ranks

ROOT = Path(__file__).parent.parent.parent


def run(monkeypatch, script, *arguments: str) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)  # one process runs several scripts here
    monkeypatch.setattr(sys, "argv", [script.__name__ + ".py", *map(str, arguments)])
    run_script(script.main)


def cut_and_resumed(monkeypatch, script, tmp_path: Path, *flags) -> None:
    """A quickstart that loses its power in the fourth step and is resumed, in tmp_path / "cut", has the weights of one
    that does not, in tmp_path / "whole"."""
    run(monkeypatch, script, "quickstart", "--output-dir", tmp_path / "whole", *flags)
    steps, step_of = [], torch.optim.AdamW.step

    def power_cut(*arguments, **options):
        steps.append(1)
        if len(steps) == 4:
            raise RuntimeError("power cut")
        return step_of(*arguments, **options)

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="power cut"):
        patch.setattr(torch.optim.AdamW, "step", power_cut)
        run(patch, script, "quickstart", "--output-dir", tmp_path / "cut", *flags)
    run(monkeypatch, script, "quickstart", "--output-dir", tmp_path / "cut", "--resume", *flags)
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(value, other[key]) for key, value in one.items())


def run_on_two_ranks(
    config: str, script: ModuleType, *arguments: object, before: Callable[[], None] | None = None
) -> None:
    """The script on two ranks, in the environment of `accelerate launch --config_file CONFIG`; without card and doors.
    `before` is called on each rank first.

    The ranks are forked, which takes a tenth of the time that the launcher needs to import torch three times.
    """
    launch = ["--config_file", str(ROOT / f"training/accelerate/{config}.yaml"), f"{script.__name__}.py"]
    options, *_ = _validate_launch_command(launch_command_parser().parse_args(launch))
    assert options.num_processes == 2
    environment = prepare_multi_gpu_env(options)
    own = {name: value for name, value in environment.items() if name.startswith(("ACCELERATE_", "FSDP_"))}
    run_ranks(_main_on_a_rank, own, script.__name__, list(map(str, arguments)), before, timeout=300)


def _main_on_a_rank(
    environment: dict[str, str], script: str, arguments: list[str], before: Callable[[], None] | None
) -> None:
    os.environ.update(environment)
    sys.argv = [script + ".py", *arguments]
    frame.publish = lambda *arguments: None
    if before:
        before()
    importlib.import_module(script).main()


def start_script(name: str, arguments: Sequence[object], said: Path) -> BaseProcess:
    """The script in a process of its own, which has imported it; what it says is appended to `said`. The doors in
    processes without suzoo stay shut: nothing is written there.

    It is forked, which takes a tenth of the time in which a fresh one imports torch.
    """
    imported = event()
    process = fork(_main_apart, name, list(map(str, arguments)), said, imported)
    assert imported.wait(300)
    return process


def _main_apart(name: str, arguments: list[str], said: Path, imported: Event) -> None:
    with said.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = [f"{name}.py", *arguments]
    script = importlib.import_module(name)
    importlib.import_module("suzoo.hub.check").verify = lambda folder, **options: []
    imported.set()
    run_script(script.main)


def refused(monkeypatch, capsys, script, *arguments) -> str:
    """The sentence a run is refused with; nothing but that sentence and exit code 2."""
    with pytest.raises(SystemExit) as caught:
        run(monkeypatch, script, *arguments)
    assert caught.value.code == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("error: ")
    return message
