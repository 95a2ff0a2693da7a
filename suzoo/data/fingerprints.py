"""A name for the content of data: what a run was trained on stays known when the file is gone."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path


def fingerprint(rows: Iterable) -> str:
    """sha256 (64 hexadecimal digits) of rows: dicts, dataclasses such as `Pair`, strings or lists, in their order.

    The order of keys within a dict does not count.
    """
    digest = hashlib.sha256()
    for row in rows:
        plain = dataclasses.asdict(row) if dataclasses.is_dataclass(row) and not isinstance(row, type) else row
        digest.update(json.dumps(plain, ensure_ascii=False, sort_keys=True, default=str).encode())
        digest.update(b"\n")
    return digest.hexdigest()


def describe(source: str, split: str | None, rows: Sequence) -> dict[str, str | int | None]:
    """What run.json keeps of a data set: source, split, number of rows, sha256, and the name when it is on the Hub."""
    local = source.startswith("embedded:") or Path(source).exists()
    return {
        "source": source,
        "split": split,
        "rows": len(rows),
        "sha256": fingerprint(rows),
        "hub_id": None if local else source.split(":")[0],
    }
