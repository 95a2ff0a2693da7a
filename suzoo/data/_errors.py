"""The exception for whatever is wrong with a user's data, and the hint at what was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DataError(ValueError):
    """A mistake in data or in how it was named: one sentence that says where and what to do."""


def nearest(name: str, candidates: Iterable[str]) -> str:
    """`, did you mean 'x'?` or nothing; for the middle of an error message."""
    found = difflib.get_close_matches(name, list(candidates), n=1, cutoff=0.7)
    return f" (did you mean {found[0]!r}?)" if found else ""
