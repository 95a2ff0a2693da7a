"""The run's folder: one run at a time in it, an old one set aside, its checkpoints on every disk, its log."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Collection
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from suzoo.distributed import all_gather_objects, rank, together, world_size
from suzoo.engine import lock
from suzoo.engine.checkpoint import is_whole, read_manifest, sound_files
from suzoo.engine.disks import Disks
from suzoo.engine.record import draw_curves, format_scores, write_json, write_record
from suzoo.reach import not_empty

logger = logging.getLogger(__name__)
OURS = re.compile(r"(step|best)-\d{8}")  # what is written into checkpoints/, and so may be deleted there
UNFINISHED = re.compile(r"\.(step|best)-\d{8}\.partial")


class RunFolder:
    """`out/<run>/`: made, checked and filled here. Every rank makes one, before the long work, so that a bad path fails
    at once. A run that `overwrite` replaces waits beside it, as `.<run>.replaced`, until the new one has a checkpoint.
    """

    def __init__(self, path: str | Path, *, overwrite: bool = False, resume: bool = False):
        """
        Args:
            path: the folder; machines without a shared disk each have their own.
            overwrite: replace the run it holds, if any. resume: continue the run it holds.

        Raises:
            ValueError: it holds a run and neither was asked for, another run is writing to it, it is no folder, or it
                is not writable. On every rank, where it holds on one.
        """
        self.path = Path(os.path.abspath(path))
        self.checkpoints = self.path / "checkpoints"
        self.shown = path
        self._replaced = self.path.with_name(f".{self.path.name}.replaced")
        self._resume = resume
        self._to_replace = False
        if overwrite and resume:
            raise ValueError("--overwrite and --resume contradict each other: choose one")
        together(self._make)
        self.disks = Disks.of(self.path)
        together(lambda: self._check(overwrite) if self.disks.leads else None)
        began = [content for content in all_gather_objects(self._began()) if content]
        self.processes_then: int = began[0].get("processes", world_size()) if began and resume else world_size()

    def _make(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"--output-dir {self.shown} is a file, not a folder")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / f".writable-{rank()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ValueError(f"can't write to --output-dir {self.shown}: {error.strerror}") from error

    def _check(self, overwrite: bool) -> None:
        lock.hold(self.path)
        if self._resume and not self._contents() and self._replaced.exists():
            # an --overwrite was cut off before it had anything: the run it set aside is the one to continue
            lock.release(self.path)
            shutil.rmtree(self.path)
            self._replaced.rename(self.path)
            lock.hold(self.path)
        if self._contents() and not self._resume:
            if not overwrite:
                raise ValueError(not_empty(self.shown))
            if not (self.path / "run.json").exists() and not self.checkpoints.exists():
                raise ValueError(f"{self.shown} holds no run of ours: --overwrite will not empty it")
            self._to_replace = True
        self.checkpoints.mkdir(exist_ok=True)

    def _contents(self) -> list[Path]:
        """What is in the folder; a run that was refused before its first step leaves an empty folder of checkpoints."""
        ignored = {lock.NAME, "checkpoints"} if not self._began_anything() else {lock.NAME}
        return [path for path in self.path.iterdir() if path.name not in ignored and not path.name.startswith(".rank-")]

    def _began_anything(self) -> bool:
        return self.checkpoints.is_dir() and any(self.checkpoints.iterdir())

    def _began(self) -> dict | None:
        """What the run in the folder began with; None where that is not to be read."""
        path = self.checkpoints / "began.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            logger.warning("%s can't be read (%s): flags and data are not compared with it", path, error)
            return None
        if not isinstance(content, dict) or not all(isinstance(content.get(k), dict) for k in ("flags", "data")):
            logger.warning("%s is not what a run wrote: flags and data are not compared with it", path)
            return None
        return content

    def begin(
        self,
        accelerator: Accelerator,
        recipe: Any,
        provenance: dict[str, dict[str, Any]],
        *,
        changeable: Collection[str] = (),
    ) -> None:
        """Write down what is run, or compare it with what the resumed run began with, and open the trackers: to be
        called on every rank before `fit`, when data and model have been read.

        Args:
            recipe, provenance: as for `finish`. A flag that the resumed run does not know, as its version did not have
                it, counts as its default.
            changeable: names of fields that a resumed run may change, since they do not change what comes out.

        Raises:
            ValueError: the ranks have other flags or data, or the resumed run began with others.
        """
        flags = {name: value for name, value in asdict(recipe).items() if name not in changeable}
        now = json.loads(json.dumps({"flags": flags, "data": provenance}))  # lists for tuples
        check_same_everywhere({f"--{k.replace('_', '-')}": v for k, v in now["flags"].items()})
        check_same_everywhere(
            {f"{name} data": {key: part.get(key) for key in ("rows", "sha256")} for name, part in now["data"].items()}
        )
        defaults = {field.name: field.default for field in fields(recipe) if field.default is not MISSING}
        together(lambda: self._begin(now, json.loads(json.dumps(defaults))) if self.disks.leads else None)
        if accelerator.log_with:
            self._open_trackers(accelerator, flags)

    def _begin(self, now: dict, defaults: dict[str, Any]) -> None:
        if self._to_replace:
            self._set_aside()
            self._to_replace = False
        steps = self._steps()
        then = self._began() if steps else None
        if not steps:
            write_json(self.checkpoints / "began.json", {**now, "processes": world_size()})
        if then is None:
            return
        flags = {**defaults, **then["flags"]}
        changed = [
            f"--{name.replace('_', '-')} {flags.get(name)}, not {value}"
            for name, value in now["flags"].items()
            if flags.get(name) != value
        ] or [f"other {name} data" for name in now["data"] if then["data"].get(name) != now["data"][name]]
        if changed:
            raise ValueError(
                f"the run in {self.shown} began with {'; with '.join(changed)}: resume it as it began, or start anew "
                "in another --output-dir"
            )

    def _open_trackers(self, accelerator: Accelerator, flags: dict[str, Any]) -> None:
        """One run of the tracker for one run of ours: a resumed one goes on in it, from the step it has reached."""
        path = self.path / "trackers.json"
        known = self._known_trackers(path) if self._resume else None
        options: dict[str, dict[str, Any]] = {}
        if self._resume:  # TensorBoard drops what the resumed run will send again
            whole = self.last_whole() if accelerator.is_main_process else None
            reached = int(whole.name.removeprefix("step-")) if whole else 0
            options["tensorboard"] = {"purge_step": reached + 1}
        if known is not None:
            if "mlflow" in known:
                options["mlflow"] = {"run_id": known["mlflow"]}
            if "wandb" in known:
                options["wandb"] = {"id": known["wandb"], "resume": "allow"}
            if "trackio" in known:
                options["trackio"] = {"name": known["trackio"], "resume": "allow"}
        config = {k: v if isinstance(v, bool | int | float | str) else str(v) for k, v in flags.items()}
        accelerator.init_trackers("suzoo", init_kwargs=options)
        for tracker in accelerator.trackers:
            # TensorBoard would have a second set; trackio forgets those of a run that it opens again
            if known is None or tracker.name != "tensorboard":
                tracker.store_init_configuration(config)
        known = known or {}
        if accelerator.is_main_process:
            for tracker in accelerator.trackers:
                own = getattr(tracker, "active_run", None) or getattr(tracker, "run", None)
                name = getattr(getattr(own, "info", None), "run_id", None)  # MLflow
                name = name or (getattr(own, "id", None) if tracker.name == "wandb" else getattr(own, "name", None))
                if isinstance(name, str):
                    known[tracker.name] = name
            write_json(path, known)

    def _known_trackers(self, path: Path) -> dict[str, str] | None:
        """The runs of the trackers that the resumed run has opened; None where it had none, or that can't be read."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            content = None
        if isinstance(content, dict) and all(isinstance(name, str) for name in content.values()):
            return content
        logger.warning("%s is not what a run wrote: the trackers begin another run", path)
        return None

    def _set_aside(self) -> None:
        """Give the run that is replaced another name, in one step; of two that were, the one with something in it
        stays."""
        if self._replaced.exists() and not (self._steps() or (self.path / "run.json").exists()):
            self._delete(self.path)  # a run between had come to nothing: the one before it still waits
        else:
            self._drop_replaced()
            lock.release(self.path)
            try:
                self.path.rename(self._replaced)
            except OSError as error:
                raise ValueError(
                    f"can't set the run in {self.shown} aside ({error.strerror}): choose another --output-dir"
                ) from error
            logger.info("the run in %s waits in %s until this one has a checkpoint", self.shown, self._replaced)
        self.checkpoints.mkdir(parents=True)
        lock.hold(self.path)

    def _delete(self, path: Path) -> None:
        """First another name, so that no half of it is taken for a run."""
        lock.release(path)
        gone = self.path.with_name(f".{self.path.name}.deleted")
        shutil.rmtree(gone, ignore_errors=True)
        path.rename(gone)
        shutil.rmtree(gone)

    def _drop_replaced(self) -> None:
        if self._replaced.exists():
            self._delete(self._replaced)

    def _steps(self) -> list[Path]:
        """Checkpoints of this disk, oldest first, damaged or not."""
        return sorted(path for path in self.checkpoints.glob("step-*") if OURS.fullmatch(path.name))

    def newest_checkpoint(self) -> Path | None:
        """The newest one that is whole, then on every disk; damaged ones are named in a warning. Every rank must call.

        Raises:
            ValueError: there are some and none is whole, or the machines hold those of different runs.
        """
        names = {name for found in all_gather_objects([path.name for path in self._steps()]) for name in found}
        for name in sorted(names, reverse=True):
            if self.fetch(self.checkpoints / name):
                return self.checkpoints / name
            logger.warning("%s is damaged (checksums differ) and is not used", self.checkpoints / name)
        if names:
            raise ValueError(f"no checkpoint in {self.checkpoints} is whole: start anew with --overwrite")
        return None

    def fetch(self, folder: Path) -> bool:
        """True when a checkpoint is whole on every disk, after copying what one lacks and another has. Every rank must
        call it."""
        manifests = all_gather_objects(read_manifest(folder))
        known = next((manifest for manifest in manifests if manifest), None)
        if known is None:
            return False
        if any(manifest not in (None, known) for manifest in manifests):
            raise ValueError(f"the machines hold different checkpoints {folder.name}: those of one run, or none")
        here = sorted(sound_files(folder, known)) if self.disks.leads else []
        sound = [set(names) for names in all_gather_objects(here)]
        if not set().union(*sound) >= known["files"].keys():
            return False
        if self.disks.number > 1:
            self.disks.send_missing(folder, known["files"], sound[self.disks.leaders[rank()]])
            if self.disks.leads and read_manifest(folder) is None:
                write_json(folder / "manifest.json", known)
        return True

    def last_whole(self) -> Path | None:
        """The newest checkpoint of this disk that is whole."""
        return next((path for path in reversed(self._steps()) if is_whole(path)), None)

    def prune(self, keep: int, best_step: int | None) -> None:
        """Delete all but the newest `keep` checkpoints and the best weights, and a run that this one replaces; nothing
        that was not written here. Every rank may call it."""
        if not self.disks.leads:
            return
        self._drop_replaced()
        for path in self._steps()[:-keep]:
            shutil.rmtree(path)
        for path in self.checkpoints.iterdir():
            is_old_best = path.name.startswith("best-") and path.name != f"best-{best_step or 0:08d}"
            if (OURS.fullmatch(path.name) and is_old_best) or UNFINISHED.fullmatch(path.name):
                shutil.rmtree(path)

    def log(self, values: dict) -> None:
        """Append a line to metrics.jsonl."""
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")

    def read_log(self) -> list[dict]:
        """The lines of metrics.jsonl; what is no line of ours is left out with a warning."""
        path = self.path / "metrics.jsonl"
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        found, bad = [], 0
        # a killed run, or a full disk, may have left half a line at the end
        for line in text[: text.rfind("\n") + 1].splitlines():
            try:
                values = json.loads(line)
            except ValueError:
                values = None
            if isinstance(values, dict) and isinstance(values.get("step"), int):
                found.append(values)
            else:
                bad += 1
        if bad:
            logger.warning("%s has %d damaged line(s), which are left out", path, bad)
        return found

    def forget_after(self, step: int) -> None:
        """Drop the lines of metrics.jsonl that a resumed run will write again."""
        if (self.path / "metrics.jsonl").exists():
            lines = [line for line in self.read_log() if line["step"] <= step]
            partial = self.path / ".metrics.jsonl.partial"
            partial.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
            partial.replace(self.path / "metrics.jsonl")

    def finish(self, recipe: Any, metrics: dict[str, dict[str, float]], **record: Any) -> None:
        """Write run.json, metrics.json and curves.png, and print the scores; the arguments are those of
        `write_record`. One process calls it, when the model is saved."""
        write_record(self.path, recipe, metrics, **record)
        self._drop_replaced()
        draw_curves(self.read_log(), self.path / "curves.png")
        print(format_scores(metrics))


def check_same_everywhere(facts: dict[str, Any]) -> None:
    """Refuse, on every rank, facts that are not the same on all: flags, data, tokenizers of several machines.

    Raises:
        ValueError: names the fact, the rank and both values.
    """
    everywhere = all_gather_objects(json.loads(json.dumps(facts)))
    for number, others in enumerate(everywhere):
        for name, value in everywhere[0].items():
            if others.get(name) != value:
                raise ValueError(
                    f"process {number} has other {name} than process 0 ({_short(others.get(name))}, not "
                    f"{_short(value)}): every machine needs the same flags and files"
                )


def _short(value: Any) -> str:
    if isinstance(value, dict) and "rows" in value:
        return f"{value['rows']} rows, sha256 {str(value['sha256'])[:8]}…"
    text = str(value)
    return text if len(text) < 60 else text[:57] + "…"
