"""A name for the content of data: what a run was trained on stays known when the file is gone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from suzoo.data.languages import languages_of

_JSON = json.JSONEncoder(ensure_ascii=False, sort_keys=True, default=str)


class Fingerprint:
    """sha256 of rows that come in parts."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def update(self, rows: Iterable[Any]) -> None:
        """Take in rows: dicts, dataclasses such as `Pair`, strings or lists."""
        for row in rows:
            names = getattr(row, "__dataclass_fields__", None)
            plain = {name: getattr(row, name) for name in names} if names else row
            self._digest.update(_JSON.encode(plain).encode() + b"\n")

    def add(self, lines: str) -> None:
        """Take in the JSON of rows, a line each with its keys in order."""
        self._digest.update(lines.encode())

    def hexdigest(self) -> str:
        """64 hexadecimal digits."""
        return self._digest.hexdigest()


def fingerprint(rows: Iterable) -> str:
    """sha256 (64 hexadecimal digits) of rows: dicts, dataclasses such as `Pair`, strings or lists, in their order.

    The order of keys within a dict does not count.
    """
    if about := getattr(rows, "about", None):  # rows of the cache, which took it when they were written
        return about["sha256"]
    digest = Fingerprint()
    digest.update(rows)
    return digest.hexdigest()


def describe(source: str | Sequence[str], split: str | None, rows: Sequence) -> dict[str, Any]:
    """What run.json keeps of a data set: source or sources, split, number of rows, sha256, languages, and the name (or
    names) when it is on the Hub."""
    names = [source] if isinstance(source, str) else list(source)
    hub_ids = [
        name.split(":")[0]
        for name in names
        if not (name.startswith("embedded:") or "://" in name or "*" in name or Path(name).exists())
    ]
    return {
        "source": " ".join(names),
        "split": split,
        "rows": len(rows),
        "sha256": fingerprint(rows),
        "languages": languages_of(rows),
        "hub_id": hub_ids[0] if len(hub_ids) == 1 else hub_ids or None,
    }
