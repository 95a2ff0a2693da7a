"""Every door of a saved folder: those of `suzoo.hub.verify`, and suzoo's own. Torch is left to their processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from suzoo.hub.verify import Door, format_table, passed, run_apart, time_limit, verify

ROOT = Path(__file__).resolve().parents[2]


def open_doors(
    folder: str | Path, *, trust_remote_code: bool = False, timeout: float | None = None, just_written: bool = False
) -> list[Door]:
    """Open a saved model in every way that it promises, in a process without suzoo, and with suzoo's own class.

    Args:
        trust_remote_code, timeout: as for `suzoo.hub.verify.verify`.
        just_written: this process wrote the folder, so that suzoo's class opens it here and not in one more process.

    Raises:
        ValueError: the folder has no readable golden file.
    """
    with TemporaryDirectory(prefix="suzoo-resaves-") as scratch:
        doors = verify(folder, trust_remote_code=trust_remote_code, timeout=timeout, scratch=scratch)
        whole = [Path(scratch, door.name) for door in doors if door.status == "ok"]
        resaves = [str(path) for path in whole if path.is_dir()]
        if just_written:
            from suzoo.hub.golden import check_all_with_suzoo

            return [*doors, *check_all_with_suzoo(folder, resaves)]
        # apart, because a chat template or tokenizer may run for ever
        program = ["-m", "suzoo.hub.golden", *resaves]
        own, died = run_apart(program, folder, time_limit(folder, timeout), imports_from=ROOT)
    return [*doors, *(own.values() or [Door("suzoo's own class", "failed", note=died)])]


def check_folder(folder: str | Path, report: Callable[[str], None] = print, **options) -> list[Door]:
    """`open_doors`, and an error where one does not give the golden outputs.

    Args:
        report: called with the table of doors.
        options: those of `open_doors`.

    Raises:
        ValueError: a door does not give the golden outputs, or the folder has no readable golden file.
    """
    doors = open_doors(folder, **options)
    report(format_table(doors))
    if not passed(doors):
        failed = ", ".join(door.name for door in doors if door.status == "failed") or "nothing could be checked"
        raise ValueError(f"{folder} does not verify: {failed}")
    return doors
