"""A name for the content of data: what a run was trained on stays known when the file is gone."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable


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
