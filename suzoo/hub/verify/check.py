"""One door opened and compared with the golden numbers."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from .comparison import compare
from .doors import WAYS, Way, unmet
from .golden_file import GOLDEN_FILE, read_golden, read_promise
from .resaves import RESAVES, opens_again
from .trust import foreign_code, foreign_modules


@dataclass
class Door:
    """What happened at one door.

    Attributes:
        name: how a user opens it, as promised in the golden file.
        status: "ok", "failed" or "not checked" (a library it needs is not installed or too old).
        difference: largest absolute difference to the golden outputs, None if none could be computed.
        note: what went wrong, or what is needed.
    """

    name: str
    status: str
    difference: float | None = None
    note: str = ""


def check_door(name: str, way: Way, folder: str | Path) -> Door:
    """Open one door and compare. Whatever it raises is a failed door, not a crash of the check."""
    try:
        outputs, golden = way.open(str(folder), read_promise(folder)), read_golden(folder)
        if way.gives is not None:
            golden = {tensor: array for tensor, array in golden.items() if tensor in {*way.gives, *outputs}}
        difference, wrong = compare(outputs, golden)
    except Exception as error:
        return Door(name, "failed", note=_first_line(error))
    return Door(name, "failed" if wrong else "ok", difference, wrong)


def _first_line(error: Exception) -> str:
    first_line = (str(error).strip() or "no message").splitlines()[0]
    return first_line[:300] if type(error) is ValueError else f"{type(error).__name__}: {first_line}"[:300]


def check_promised_door(
    name: str, folder: str | Path, *, trust_remote_code: bool = False, scratch: str | Path | None = None
) -> Door:
    """Open the door called `name`, unless a library it needs is not installed or too old.

    One that would run code of the folder which is not suzoo's stays shut without `trust_remote_code`: it is "failed".

    Args:
        scratch: a folder in which to leave, under `name`, what another library saved again and lost nothing of.
    """
    way = WAYS.get(name) or RESAVES[name]
    if missing := way.needs and unmet(way.needs):
        return Door(name, "not checked", note=missing)
    foreign = foreign_code(folder) if "trust_remote_code" in name else ""
    if name.removeprefix("saved by ").split(",")[0] in ("SentenceTransformer", "CrossEncoder"):
        foreign = foreign or foreign_modules(folder)
    if foreign and not trust_remote_code:
        return Door(name, "failed", note=f"not opened: {foreign}; read it, then give --trust-remote-code")
    if isinstance(way, Way):
        return check_door(name, way, folder)
    opens, loses = opens_again(name, read_promise(folder)["doors"])
    with tempfile.TemporaryDirectory(prefix="suzoo-resave-") as temporary:
        target = Path(temporary if loses or scratch is None else scratch, name)
        return _check_saved_again(name, str(folder), target, opens, trust_remote_code)


def _check_saved_again(name: str, folder: str, target: Path, opens: list[str], trust_remote_code: bool) -> Door:
    """Let another library save the folder, and open what it wrote."""
    try:
        RESAVES[name].save(folder, str(target))
        shutil.copy(Path(folder) / GOLDEN_FILE, target)
    except Exception as error:
        return Door(name, "failed", note=_first_line(error))
    doors = [check_promised_door(door, target, trust_remote_code=trust_remote_code) for door in opens]
    failed = [f"{door.name}: {door.note}" for door in doors if door.status == "failed"]
    worst = max((door.difference for door in doors if door.difference is not None), default=None)
    return Door(name, "failed" if failed else "ok", worst, (failed or [""])[0])


def passed(doors: list[Door]) -> bool:
    """True when no door failed and at least one was checked."""
    return any(door.status == "ok" for door in doors) and all(door.status != "failed" for door in doors)


def format_table(doors: list[Door]) -> str:
    """The doors as an aligned text table."""
    width = max(len(door.name) for door in doors)
    lines = [f"{'door':<{width}}  {'status':<11}  difference"]
    for door in doors:
        difference = "-" if door.difference is None else f"{door.difference:.1e}"
        lines.append(f"{door.name:<{width}}  {door.status:<11}  {difference:<10}  {door.note}".rstrip())
    return "\n".join(lines)
