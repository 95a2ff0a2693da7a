"""What of a run's record others may read: names in place of the paths of the author's machine."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

FILE_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".txt", ".parquet", ".gz", ".safetensors", ".model")


def public_record(run: dict) -> dict:
    """What `run.json` says, with files and folders of the author's machine by their names alone."""
    command = [part if part == run["script"] else public_name(part) for part in shlex.split(run["command"])]
    data = {split: part | {"source": _sources(str(part["source"]))} for split, part in run["data"].items()}
    fields = {name: _public(run[name]) for name in ("recipe", "settings") if name in run}
    return run | fields | {"command": shlex.join(command), "data": data}


def is_local(text: str) -> bool:
    """True for what looks like a path of the author's machine, and not like a name on the Hub."""
    if "://" in text:
        return False
    if text.startswith(("/", "~", "./", "../")) or text in (".", "..") or re.match(r"[A-Za-z]:[\\/]|\\\\", text):
        return True
    return "/" in text and (text.count("/") > 1 or text.lower().endswith(FILE_SUFFIXES) or Path(text).exists())


def public_name(text: str) -> str:
    """A text without the folders of the author, where it is a local path; `--flag=path` too."""
    flag, equals, value = text.partition("=")
    if equals and flag.startswith("-"):
        return f"{flag}={public_name(value)}"
    if not is_local(text):
        return text
    return re.split(r"[\\/]", text.rstrip("\\/"))[-1] if text.strip("./~") else Path(text).expanduser().resolve().name


def _sources(text: str) -> str:
    """One source, or several with a space between."""
    return public_name(text) if Path(text).exists() else " ".join(map(public_name, text.split(" ")))


def _public(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _public(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_public(part) for part in value]
    return public_name(value) if isinstance(value, str) else value
