"""Two machines without a shared disk: network namespaces of their own, joined by a cable, with a folder each."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from safetensors.torch import load_file

ROOT = Path(__file__).parent.parent.parent
FLAGS = ["quickstart", "--hidden-size", "32", "--num-layers", "1", "--max-train-samples", "192", "--cpu-threads", "1"]
FLAGS += ["--max-dev-samples", "16", "--evaluate-every", "3", "--save-every", "1", "--max-steps", "12"]


def ip(*arguments: str) -> bool:
    return subprocess.run(["ip", *arguments], capture_output=True).returncode == 0


@pytest.fixture
def cable() -> Iterator[list[str]]:
    """Names of two namespaces that see each other as 10.77.0.1 and 10.77.0.2."""
    names = [f"suzoo-{os.getpid()}-{number}" for number in range(2)]
    try:
        if not shutil.which("ip") or not all(ip("netns", "add", name) for name in names):
            pytest.skip("network namespaces need root and the program ip")
        here, there = (f"sz{os.getpid()}{end}" for end in "ab")
        assert ip("link", "add", here, "netns", names[0], "type", "veth", "peer", "name", there, "netns", names[1])
        for number, (name, device) in enumerate(zip(names, (here, there), strict=True)):
            assert ip("-n", name, "addr", "add", f"10.77.0.{number + 1}/24", "dev", device)
            assert ip("-n", name, "link", "set", device, "up") and ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in names:
            ip("netns", "del", name)


def launch(names: Sequence[str], root: Path, config: str, port: int, *more: str) -> list[subprocess.Popen]:
    """`accelerate launch` on both machines, each in a folder of its own."""
    config_file, script = ROOT / f"training/accelerate/{config}.yaml", ROOT / "training/train_cosent.py"
    started = []
    for number, name in enumerate(names):
        disk = root / f"machine-{number}"
        disk.mkdir(parents=True, exist_ok=True)
        device = f"sz{os.getpid()}{'ab'[number]}"
        command = ["ip", "netns", "exec", name, sys.executable, "-m", "accelerate.commands.launch"]
        command += ["--config_file", str(config_file), "--num_machines", "2", "--num_processes", "2"]
        command += ["--machine_rank", str(number), "--main_process_ip", "10.77.0.1", "--main_process_port", str(port)]
        command += [str(script), *FLAGS, "--output-dir", "run", *more]
        with (disk / "said").open("a") as said:
            env = {**os.environ, "GLOO_SOCKET_IFNAME": device}
            started.append(
                subprocess.Popen(command, cwd=disk, env=env, stdout=said, stderr=said, start_new_session=True)
            )
    return started


def finish(started: Sequence[subprocess.Popen], root: Path) -> None:
    for number, process in enumerate(started):
        assert process.wait(300) == 0, (root / f"machine-{number}/said").read_text()[-3000:]


def kill(names: Sequence[str], started: Sequence[subprocess.Popen]) -> None:
    """All that runs on both machines, as when the power fails."""
    for name in names:
        found = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=True)
        for number in found.stdout.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(number), signal.SIGKILL)
    for process in started:
        process.wait()


@pytest.mark.slow
@pytest.mark.parametrize(("config", "loses"), [("ddp_cpu", True), ("fsdp2_cpu", False)])
def test_killed_machines_go_on_also_when_one_has_lost_its_disk(tmp_path, cable, config, loses):
    """In shards a machine has what no other has; data parallel the others have it, too."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    finish(launch(cable, whole, config, 29511), whole)
    started = launch(cable, cut, config, 29512)
    try:
        newest = cut / "machine-0/run/checkpoints/step-00000004/manifest.json"
        deadline = time.monotonic() + 200
        while not newest.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        kill(cable, started)
    assert newest.exists() and not (cut / "machine-0/run/run.json").exists()
    if loses:
        shutil.rmtree(cut / "machine-1/run/checkpoints")
    finish(launch(cable, cut, config, 29513, "--resume"), cut)
    assert "resumed from" in (cut / "machine-0/said").read_text()
    expected, found = (load_file(root / "machine-0/run/model.safetensors") for root in (whole, cut))
    assert all(found[name].equal(value) for name, value in expected.items()) and found.keys() == expected.keys()
    # the machine that does not save the model has the checkpoints, and nothing of a run of its own
    assert not (cut / "machine-1/run/model.safetensors").exists()
    assert (cut / "machine-1/run/checkpoints/step-00000012/manifest.json").exists()
