"""All doors of a folder, opened in one fresh process in which importing suzoo raises."""

from __future__ import annotations

import contextlib
import importlib.abc
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from .check import Door, check_promised_door
from .golden_file import read_promise

LAUNCHER_VARIABLES = ("ACCELERATE_", "FSDP_", "TORCHELASTIC_", "MASTER_", "RANK", "WORLD_SIZE", "LOCAL_", "GROUP_")


class _NoSuzoo(importlib.abc.MetaPathFinder):
    """Import system hook under which suzoo does not exist, wherever it is installed."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname.split(".")[0] == "suzoo":
            raise ModuleNotFoundError(f"{fullname} is blocked: the door must open without suzoo", name=fullname)


def check_all(folder: str, results: str) -> None:
    """The fresh process: check every promised door, one JSON line per door as soon as it is known."""
    for name in [name for name in sys.modules if name.split(".")[0] == "suzoo"]:
        del sys.modules[name]
    sys.meta_path.insert(0, _NoSuzoo())
    with open(results, "a", encoding="utf-8") as file:
        for name in read_promise(folder)["doors"]:
            print(json.dumps(asdict(check_promised_door(name, folder))), file=file, flush=True)


def verify(folder: str | Path, *, timeout: float = 1800) -> list[Door]:
    """Check every door `folder` promises, in a fresh process without suzoo, network, cache and stdin.

    Args:
        folder: a saved model with its golden file.
        timeout: seconds for all doors together.

    Returns:
        One `Door` per promise, in the promised order. A door the process died in, or never reached, is "failed".

    Raises:
        ValueError: the folder promises nothing that can be read.
    """
    promise = read_promise(folder)
    with tempfile.TemporaryDirectory(prefix="suzoo-verify-") as scratch:
        results = Path(scratch) / "results.jsonl"
        # a training process launches this one: it must not take itself for another rank of that run
        own = {k: v for k, v in os.environ.items() if not k.startswith(LAUNCHER_VARIABLES)}
        environment = own | {
            "HF_HOME": str(Path(scratch) / "huggingface"),
            "HF_HUB_CACHE": str(Path(scratch) / "huggingface" / "hub"),
            "HF_MODULES_CACHE": str(Path(scratch) / "huggingface" / "modules"),
            "HF_HUB_OFFLINE": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "TRANSFORMERS_VERBOSITY": "error",
            "TOKENIZERS_PARALLELISM": "false",
            "CUDA_VISIBLE_DEVICES": "",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        command = [
            sys.executable,
            str(Path(__file__).resolve().parent),
            "--child",
            str(results),
            str(Path(folder).resolve()),
        ]
        died = ""
        try:
            process = subprocess.run(
                command,
                cwd=scratch,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout,
            )
            if process.returncode:
                last = (process.stderr.strip() or "no message").splitlines()[-1]
                died = f"the checking process ended with code {process.returncode}: {last}"
        except subprocess.TimeoutExpired:
            died = f"not answered within {timeout:.0f} s"
        lines = results.read_text(encoding="utf-8").splitlines() if results.exists() else []
    doors = {}
    for line in lines:
        with contextlib.suppress(json.JSONDecodeError):  # the line a killed process was writing: its door is "failed"
            door = Door(**json.loads(line))
            doors[door.name] = door
    return [doors.get(name, Door(name, "failed", note=died)) for name in promise["doors"]]
