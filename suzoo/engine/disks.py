"""Which ranks see the same disk. Several machines may share none: rank 0's disk is not everybody's disk."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from suzoo.distributed import all_gather_objects, barrier, broadcast_bytes, rank, world_size

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Disks:
    """`leaders[r]` is the lowest rank that sees the disk of rank r; it writes what all ranks of that disk share."""

    leaders: tuple[int, ...]

    @classmethod
    def shared(cls) -> Disks:
        """All ranks see one disk."""
        return cls((0,) * world_size())

    @classmethod
    def of(cls, folder: Path) -> Disks:
        """Found out by leaving a file in `folder` (which exists on every rank) and looking who sees it."""
        mine = folder / f".rank-{secrets.token_hex(8)}"
        mine.touch()
        names = all_gather_objects(mine.name)
        seen = [number for number, name in enumerate(names) if (folder / name).exists()]
        leaders = all_gather_objects(min(seen))
        mine.unlink()
        return cls(tuple(leaders))

    @property
    def leads(self) -> bool:
        """Whether this rank writes for its disk."""
        return self.leaders[rank()] == rank()

    @property
    def number(self) -> int:
        return len(set(self.leaders))

    def send_missing(self, folder: Path, files: Iterable[str], mine: set[str]) -> None:
        """Copy each file from the lowest rank whose disk has it to the disks that lack it; every rank must call it.

        Args:
            folder: the same on every rank.
            files: names to have on every disk, the same on every rank.
            mine: those that this rank's disk has.
        """
        have = all_gather_objects(sorted(mine))
        for name in files:
            owners = [number for number, names in enumerate(have) if name in names]
            if len(owners) == world_size():
                continue
            receives = self.leads and name not in mine
            broadcast_file(folder / name, source=owners[0], receives=receives)
        barrier()


def broadcast_file(path: Path, *, source: int, receives: bool, chunk: int = 1 << 24) -> None:
    """Send a file of rank `source` to the ranks that receive it, which replace their own; every rank must call it."""
    partial = path.with_name(f".{path.name}.partial")
    with contextlib.ExitStack() as files:
        reading = files.enter_context(path.open("rb")) if rank() == source else None
        writing = None
        if receives:
            path.parent.mkdir(parents=True, exist_ok=True)
            writing = files.enter_context(partial.open("wb"))
        while part := broadcast_bytes(reading.read(chunk) if reading else b"", source=source):
            if writing:
                writing.write(part)
    if receives:
        os.replace(partial, path)
