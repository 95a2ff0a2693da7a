"""The run's folder: what was run (run.json), what came out (metrics.json, metrics.jsonl, curves.png), checkpoints."""

from __future__ import annotations

import json
import logging
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from safetensors import SafetensorError

from suzoo import __version__
from suzoo.distributed import world_size

logger = logging.getLogger(__name__)

PACKAGES = ("torch", "transformers", "tokenizers", "accelerate", "datasets", "peft", "numpy")


class RunFolder:
    """`out/<run>/`: made, checked and filled here. Create it before the long work, so that a bad path fails at once."""

    def __init__(self, path: str | Path, *, overwrite: bool = False, resume: bool = False, main: bool = True):
        """
        Args:
            path: the folder.
            overwrite: replace the run it holds, if any. resume: continue the run it holds.
            main: True on the one process that writes.

        Raises:
            ValueError: it holds a run and neither was asked for, it is no folder, or it is not writable.
        """
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"
        self._replaced = self.path / ".replaced"
        self._main = main
        self._to_replace = False
        if not main:
            return
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"--output-dir {self.path} is a file, not a folder")
        if overwrite and resume:
            raise ValueError("--overwrite and --resume contradict each other: choose one")
        # a run that was refused before its first step leaves an empty folder of checkpoints
        began = self.path.exists() and any(p != self.checkpoints or any(p.iterdir()) for p in self.path.iterdir())
        if began and not resume:
            if not overwrite:
                raise ValueError(f"{self.path} is not empty: add --resume to continue, --overwrite to start anew")
            if not (self.path / "run.json").exists() and not self.checkpoints.exists():
                raise ValueError(f"{self.path} holds no run of ours: --overwrite will not empty it")
            self._to_replace = True
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            probe = self.path / ".writable"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ValueError(f"can't write to --output-dir {self.path}: {error.strerror}") from error

    def begin(
        self,
        accelerator: Accelerator,
        recipe: Any,
        provenance: dict[str, dict[str, Any]],
        *,
        changeable: Collection[str] = (),
    ) -> None:
        """Write down what is run, or compare it with what the resumed run began with, and open the trackers: to be
        called before `fit`, when data and model have been read.

        A run that is replaced waits in `.replaced` until the new one has a checkpoint.

        Args:
            recipe, provenance: as for `finish`.
            changeable: names of fields that a resumed run may change, since they do not change what comes out.

        Raises:
            ValueError: the resumed run began with other flags or data.
        """
        if self._main:
            self._begin(recipe, provenance, changeable)
        accelerator.init_trackers("suzoo")

    def _begin(self, recipe: Any, provenance: dict[str, dict[str, Any]], changeable: Collection[str]) -> None:
        if self._to_replace:
            self._set_aside()
            self._to_replace = False
        flags = {name: value for name, value in asdict(recipe).items() if name not in changeable}
        now = json.loads(json.dumps({"flags": flags, "data": provenance}))  # lists for tuples
        path = self.checkpoints / "began.json"
        if not any(self.checkpoints.glob("step-*")) or not path.exists():
            _write_json(path, now)
            return
        then = json.loads(path.read_text(encoding="utf-8"))
        changed = [
            f"--{name.replace('_', '-')} {then['flags'].get(name)}, not {value}"
            for name, value in now["flags"].items()
            if then["flags"].get(name) != value
        ] or [f"other {name} data" for name in now["data"] if then["data"].get(name) != now["data"][name]]
        if changed:
            raise ValueError(
                f"the run in {self.path} began with {'; with '.join(changed)}: resume it as it began, or start anew in "
                "another --output-dir"
            )

    def _set_aside(self) -> None:
        old = [path for path in self.path.iterdir() if path != self._replaced]
        if self._replaced.exists():  # a run between was refused: the one before it still waits
            for path in old:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        else:
            self._replaced.mkdir()
            for path in old:
                path.rename(self._replaced / path.name)
            logger.info("the run in %s waits in %s until this one has a checkpoint", self.path, self._replaced)
        self.checkpoints.mkdir()

    def _drop_replaced(self) -> None:
        if self._replaced.exists():
            shutil.rmtree(self._replaced)

    def finish(
        self,
        recipe: Any,
        metrics: dict[str, dict[str, float]],
        *,
        script: str,
        provenance: dict[str, dict[str, Any]],
        settings: dict[str, Any] | None = None,
        citations: str = "",
    ) -> None:
        """Write run.json, metrics.json and curves.png, and print the scores.

        Args:
            recipe: a dataclass of plain data.
            metrics: split -> name -> number. Cards take their numbers from metrics.json and nowhere else.
            script: path of the training script in the repository.
            provenance: split -> at least {"source", "rows", "sha256"}; an "embedded:" source makes the run synthetic.
            settings: what the model card shows of the recipe; default is all of it.
            citations: BibTeX of the methods used, for the card.
        """
        content = {
            "script": script,
            "command": shlex.join(["accelerate", "launch", script, *sys.argv[1:]]),
            "recipe": asdict(recipe),
            "settings": asdict(recipe) if settings is None else settings,
            "data": provenance,
            "synthetic": any(str(part["source"]).startswith("embedded:") for part in provenance.values()),
            "git_commit": _git_commit(),
            "citations": citations,
            "versions": {"suzoo": __version__, "python": platform.python_version()}
            | {name: metadata.version(name) for name in PACKAGES},
            "date": time.strftime("%Y-%m-%d"),
        }
        _write_json(self.path / "run.json", content)
        _write_json(self.path / "metrics.json", metrics)
        self._drop_replaced()
        self._plot()
        print(format_scores(metrics))

    def log(self, values: dict) -> None:
        """Append a line to metrics.jsonl."""
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(values) + "\n")

    def read_log(self) -> list[dict]:
        path = self.path / "metrics.jsonl"
        text = path.read_text() if path.exists() else ""
        # a killed run, or a full disk, may have left half a line at the end
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def forget_after(self, step: int) -> None:
        """Drop the lines of metrics.jsonl that a resumed run will write again."""
        lines = [line for line in self.read_log() if line["step"] <= step]
        if lines or (self.path / "metrics.jsonl").exists():
            partial = self.path / ".metrics.jsonl.partial"
            partial.write_text("".join(json.dumps(line) + "\n" for line in lines))
            partial.replace(self.path / "metrics.jsonl")

    def prune(self, keep: int, best_step: int | None) -> None:
        """Delete all but the newest `keep` checkpoints and the best weights, and a run that this one replaces."""
        self._drop_replaced()
        for path in sorted(self.checkpoints.glob("step-*"))[:-keep]:
            shutil.rmtree(path)
        for path in self.checkpoints.glob("best-*"):
            if path.name != f"best-{best_step or 0:08d}":
                shutil.rmtree(path)

    def _plot(self) -> None:
        """curves.png: loss and dev metrics over steps."""
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt

        lines = self.read_log()
        train = [line for line in lines if "loss" in line]
        dev = [line for line in lines if "dev" in line]
        figure, axes = plt.subplots(1, 1 + bool(dev), figsize=(5 + 5 * bool(dev), 3.5), squeeze=False)
        axes[0, 0].plot([line["step"] for line in train], [line["loss"] for line in train], linewidth=1)
        axes[0, 0].set(xlabel="step", ylabel="training loss")
        for name in dev[0]["dev"] if dev else ():
            axes[0, 1].plot([line["step"] for line in dev], [line["dev"][name] for line in dev], marker="o", label=name)
        if dev:
            axes[0, 1].set(xlabel="step", ylabel="dev")
            axes[0, 1].legend()
        for axis in axes[0]:
            axis.grid(alpha=0.3)
        figure.tight_layout()
        figure.savefig(self.path / "curves.png", dpi=120)
        plt.close(figure)


def format_scores(metrics: dict[str, dict[str, float]]) -> str:
    """The numbers as a text table, one line per split."""
    names = list(dict.fromkeys(name for values in metrics.values() for name in values))
    width = max(len(split) for split in metrics)
    widths = {name: max(10, len(name)) for name in names}
    lines = ["  ".join([" " * width, *(f"{name:>{widths[name]}}" for name in names)])]
    for split, values in metrics.items():
        cells = (f"{values[name]:{widths[name]}.4f}" if name in values else " " * widths[name] for name in names)
        lines.append("  ".join([f"{split:<{width}}", *cells]))
    return "\n".join(lines)


def _write_json(path: Path, content: Any) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)


def _git_commit() -> str | None:
    """Commit of the suzoo checkout, with "+" when it has uncommitted changes; None when installed as a package, and
    without git."""
    folder = Path(__file__).parent
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True)
    except OSError:
        return None
    if commit.returncode:
        return None
    status = subprocess.run(["git", "status", "--porcelain"], cwd=folder, capture_output=True, text=True)
    return commit.stdout.strip() + ("+" if status.stdout.strip() else "")


def end_training(accelerator: Accelerator) -> None:
    """Close the trackers; the process group stays for `run_script` to leave behind.

    `Accelerator.end_training` would destroy it. Its last owner is then the DDP module, which dies with the GIL held and
    waits for gloo's threads, one of which may want the GIL to free a tensor: one process in some hundred runs hung.
    """
    for tracker in accelerator.trackers:
        tracker.finish()


def run_script(main: Callable[[], None]) -> None:
    """Run a script's `main`; a user's mistake (ValueError, OSError) becomes one sentence and exit code 2.

    One process of several leaves without Python's clean-up, in which the threads of a process group may abort or hang.
    The environment variable SUZOO_TRACEBACK=1 shows the traceback instead.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for noisy in ("httpx", "httpx2", "datasets", "accelerate"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        main()
    except (ValueError, OSError, SafetensorError) as error:
        if os.environ.get("SUZOO_TRACEBACK") == "1":
            raise
        process = f" (process {os.environ['RANK']})" if int(os.environ.get("WORLD_SIZE", "1")) > 1 else ""
        message = " ".join(str(error).split())
        if "trust_remote_code=True" in message:  # transformers' own words are for programmers
            message = "the model needs Python code that it brings along: read it, then give --trust-remote-code"
        if "No space left" in message or "File too large" in message:
            message += "; make room, then go on with --resume in place of --overwrite"
        print(f"error{process}: {message}", file=sys.stderr, flush=True)
        sys.exit(2)
    if world_size() > 1:
        # gloo's threads abort a process that just ends, and may hang one that destroys the group, see `end_training`
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
