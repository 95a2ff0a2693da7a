"""One run per folder: a lock that goes with the process that holds it, however that ends."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

logger = logging.getLogger(__name__)
NAME = ".lock"
_held: dict[Path, IO] = {}


def hold(folder: Path) -> None:
    """Lock `folder` for this process until `release_all` or its end.

    Raises:
        ValueError: another process holds it.
    """
    path = folder.resolve() / NAME
    if fcntl is None or path in _held:
        return
    file = path.open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise ValueError(f"another run is writing to {folder}: wait for it, or choose another --output-dir") from error
    except OSError as error:
        logger.warning("%s can't be locked (%s): see that no second run writes to it", folder, error.strerror)
    _held[path] = file


def release(folder: Path) -> None:
    """Let go of `folder`, before it gets another name."""
    file = _held.pop(folder.resolve() / NAME, None)
    if file:
        file.close()


def release_all() -> None:
    while _held:
        _held.popitem()[1].close()
