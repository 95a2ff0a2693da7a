"""`suzoo train`: the same scripts as in a checkout, also from a wheel."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

from recipes import frame

import pytest

from suzoo import terminal
from suzoo.cli import main
from suzoo.engine.record import command_line

ROOT = Path(__file__).parent.parent
TINY = ["--hidden-size", "32", "--num-layers", "1", "--max-train-samples", "64", "--max-dev-samples", "16"]
TINY += ["--max-steps", "1", "--cpu-threads", "1"]


def suzoo(*arguments: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "suzoo", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=300, env=environment or None)


def test_version_and_names(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert not end.value.code and capsys.readouterr().out.startswith("suzoo 0.")
    with pytest.raises(SystemExit) as end:
        main(["train", "nothing"])
    assert end.value.code == 2 and "cosent" in capsys.readouterr().err
    assert main(["train", "--config", "nowhere", "cosent", "quickstart"]) == 2
    assert "no Accelerate configuration nowhere" in capsys.readouterr().err


@pytest.mark.slow
def test_a_wheel_trains(tmp_path):
    """Built, unpacked where no checkout is, and run there: the scripts, their recipes, the configs, the card."""
    pytest.importorskip("hatchling")
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path, ROOT]
    subprocess.run(list(map(str, build)), check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    assert (tmp_path / "site/suzoo/py.typed").exists()
    where = {"PYTHONPATH": str(tmp_path / "site"), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    for config in ([], ["--config", "ddp_cpu"]):
        folder = tmp_path / f"run{len(config)}"
        done = suzoo(
            "-q", "train", *config, "cosent", "quickstart", *TINY, "--output-dir", folder, cwd=tmp_path, **where
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert f"verified: {folder}" in done.stdout
        record = json.loads((folder / "run.json").read_text())
        assert record["command"].startswith("suzoo train cosent quickstart --hidden-size 32")
    done = suzoo("script", "make_space", "--help", cwd=tmp_path, **where)
    assert done.returncode == 0 and "OUTPUT gets `app.py`" in done.stdout


def test_the_record_has_the_command_that_a_user_typed(monkeypatch):
    """Not the path that runpy puts into sys.argv[0]."""
    found = []

    def look() -> None:
        found.append(command_line("training/train_cosent.py"))
        raise ValueError("enough")

    monkeypatch.setattr(terminal, "called_as", None)
    monkeypatch.setattr(sys, "argv", ["suzoo"])
    monkeypatch.setattr(frame, "check_launch", look)
    with pytest.raises(SystemExit):
        main(["train", "cosent", "quickstart", "--lr", "0.001"])
    assert found == ["suzoo train cosent quickstart --lr 0.001"]
