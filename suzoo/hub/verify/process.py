"""All doors of a folder, opened in one fresh process in which importing suzoo raises."""

from __future__ import annotations

import contextlib
import importlib.abc
import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from .check import Door, check_promised_door
from .golden_file import read_promise

LAUNCHER_VARIABLES = ("ACCELERATE_", "FSDP_", "TORCHELASTIC_", "MASTER_", "RANK", "WORLD_SIZE", "LOCAL_", "GROUP_")
SECRET = re.compile("TOKEN|SECRET|PASSW|CREDENTIAL|API_?KEY|ACCESS_KEY", re.IGNORECASE)


class _NoSuzoo(importlib.abc.MetaPathFinder):
    """Import system hook under which suzoo does not exist, wherever it is installed."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname.split(".")[0] == "suzoo":
            raise ModuleNotFoundError(f"{fullname} is blocked: the door must open without suzoo", name=fullname)


def check_all(folder: str, results: str, trust_remote_code: bool, scratch: str | None) -> None:
    """The fresh process: check every promised door, one JSON line per door as soon as it is known."""
    for name in [name for name in sys.modules if name.split(".")[0] == "suzoo"]:
        del sys.modules[name]
    sys.meta_path.insert(0, _NoSuzoo())
    with open(results, "a", encoding="utf-8") as file:
        for name in read_promise(folder)["doors"]:
            door = check_promised_door(name, folder, trust_remote_code=trust_remote_code, scratch=scratch)
            print(json.dumps(asdict(door)), file=file, flush=True)


def verify(
    folder: str | Path,
    *,
    trust_remote_code: bool = False,
    timeout: float | None = None,
    scratch: str | Path | None = None,
) -> list[Door]:
    """Check every door `folder` promises, in a fresh process without suzoo, network, cache, stdin and tokens.

    Args:
        folder: a saved model with its golden file.
        trust_remote_code: run also code in the folder that is not suzoo's own, see `trust`.
        timeout: seconds for all doors together, see `time_limit`.
        scratch: see `check_promised_door`.

    Returns:
        One `Door` per promise, in the promised order. A door the process died in, or never reached, is "failed".

    Raises:
        ValueError: the folder promises nothing that can be read.
    """
    promised = read_promise(folder)["doors"]
    package = Path(__file__).resolve().parent
    flags = ["--trust-remote-code"] * trust_remote_code + (["--scratch", str(scratch)] if scratch else [])
    doors, died = run_apart([str(package), *flags], folder, time_limit(folder, timeout))
    missing = [name for name in promised if name not in doors]
    notes = dict.fromkeys(missing, "not reached") | dict.fromkeys(missing[:1], died)
    return [doors.get(name) or Door(name, "failed", note=notes[name]) for name in promised]


def time_limit(folder: str | Path, timeout: float | None) -> float:
    """Seconds to open a folder in every way: those given, else ten minutes and two more per gigabyte of weights."""
    if timeout is not None:
        return timeout
    return 600 + 120 * sum(path.stat().st_size for path in Path(folder).glob("*.safetensors")) / 1e9


def run_apart(
    program: list[str], folder: str | Path, timeout: float, imports_from: Path | None = None
) -> tuple[dict[str, Door], str]:
    """Run `python PROGRAM --child RESULTS FOLDER` in a fresh process without network, cache, stdin, and the tokens and
    keys in this one's environment.

    Args:
        timeout: seconds.
        imports_from: a folder to import packages from.

    Returns:
        The doors that it wrote to RESULTS, a line each, and why it came to no more.
    """
    with tempfile.TemporaryDirectory(prefix="suzoo-verify-") as scratch:
        results = Path(scratch) / "results.jsonl"
        # a training process launches this one: it must not take itself for another rank of that run
        own = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(LAUNCHER_VARIABLES) and not SECRET.search(name)
        }
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
        if imports_from is not None:
            paths = [str(imports_from), *filter(None, [own.get("PYTHONPATH")])]
            environment["PYTHONPATH"] = os.pathsep.join(paths)
        died = "no answer"
        try:
            process = subprocess.run(
                [sys.executable, *program, "--child", str(results), str(Path(folder).resolve())],
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
            died = (
                f"not answered within {timeout:.0f} s: a chat template or tokenizer of the folder may run for ever; "
                "give a large model on a slow machine more with --timeout"
            )
        lines = results.read_text(encoding="utf-8").splitlines() if results.exists() else []
    doors = {}
    for line in lines:
        with contextlib.suppress(json.JSONDecodeError):  # the line a killed process was writing: its door is "failed"
            door = Door(**json.loads(line))
            doors[door.name] = door
    return doors, died
