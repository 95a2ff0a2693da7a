"""The block of docs/processes.md with Ray Train: two CPU workers, one of which dies. Needs pip install "ray[train]"."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import train_cosent

from tests.training.scripts import run_on_two_ranks

ROOT = Path(__file__).parent.parent.parent
TINY = ["--hidden-size", "32", "--num-layers", "1", "--max-train-samples", "256", "--max-dev-samples", "64"]
TINY += ["--cpu-threads", "1"]
DIES = """
    import os, signal, threading, time
    from pathlib import Path
    def die():
        while not (Path({folder!r}) / "checkpoints/step-00000010").exists():
            time.sleep(0.01)
        Path({marker!r}).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if os.environ["RANK"] == "0" and not Path({marker!r}).exists():
        threading.Thread(target=die, daemon=True).start()
    train_cosent.main()
"""


def what_came_out(folder: Path) -> tuple:
    log = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    log = [{k: v for k, v in line.items() if k not in ("steps_per_second", "data_wait")} for line in log]
    return log, *((folder / name).read_bytes() for name in ("model.safetensors", "metrics.json"))


@pytest.mark.slow
def test_workers_of_ray_train_the_bits_of_two_processes_and_are_started_again(tmp_path):
    pytest.importorskip("ray.train")
    flags = ["quickstart", *TINY, "--save-every", "10", "--output-dir"]
    run_on_two_ranks("ddp_cpu", train_cosent, *flags, tmp_path / "two")
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/processes.md").read_text(), re.DOTALL)
    folder, marker = str(tmp_path / "ray"), tmp_path / "died"
    for old, new in [
        ('"/shared/out/x"', f"{folder!r}, *{TINY}"),
        ("/shared/suzoo/training", str(ROOT / "training")),
        ("use_gpu=True", "use_gpu=False"),
        ("    train_cosent.main()\n", DIES.format(folder=folder, marker=str(marker))),
        ("max_failures=3)", f"max_failures=3), storage_path={str(tmp_path / 'results')!r}"),
    ]:
        assert block.count(old) == 1, old
        block = block.replace(old, new)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600"}
    done = subprocess.run(
        [sys.executable, "-c", block], capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=900
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert marker.exists() and "resumed from" in done.stderr + done.stdout
    assert what_came_out(tmp_path / "ray") == what_came_out(tmp_path / "two")
