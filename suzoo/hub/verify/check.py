"""One door opened and compared with the golden numbers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .doors import WAYS, Way, unmet
from .golden_file import TOLERANCE, read_golden, read_promise
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


def compare(outputs: dict, golden: dict) -> tuple[float, str]:
    """(largest absolute difference, what is wrong or "") of two {tensor name: array} dicts.

    The tolerance is 1e-5 of the largest golden value, and at least 1e-5: the float32 rounding of another batch shape.
    Whole numbers, which are token ids, have none.
    """
    import numpy as np

    if outputs.keys() != golden.keys():
        return float("nan"), f"gave the outputs {sorted(outputs)}, promised are {sorted(golden)}"
    worst, wrong = 0.0, ""
    for name, expected in golden.items():
        actual = np.asarray(outputs[name], dtype=np.float64)
        if actual.shape != expected.shape:
            return float("nan"), f"{name} has shape {actual.shape}, promised is {expected.shape}"
        difference = float(np.abs(actual - expected).max(initial=0.0))
        exact = np.issubdtype(expected.dtype, np.integer)
        allowed = 0.0 if exact else TOLERANCE * max(1.0, float(np.abs(expected).max(initial=0.0)))
        if not difference <= allowed:  # written so that NaN fails
            rows = np.abs(actual - expected).reshape(len(expected), -1).max(axis=1)
            wrong = wrong or f"{name} differs by {difference:.1e} (allowed {allowed:.1e}), most in row {rows.argmax()}"
        worst = max(worst, difference) if difference == difference else difference
    return worst, wrong


def check_door(name: str, way: Way, folder: str | Path) -> Door:
    """Open one door and compare. Whatever it raises is a failed door, not a crash of the check."""
    try:
        outputs, golden = way.open(str(folder), read_promise(folder)), read_golden(folder)
        if way.gives is not None:
            golden = {tensor: array for tensor, array in golden.items() if tensor in {*way.gives, *outputs}}
        difference, wrong = compare(outputs, golden)
    except Exception as error:
        first_line = (str(error).strip() or "no message").splitlines()[0]
        return Door(name, "failed", note=f"{type(error).__name__}: {first_line}"[:300])
    return Door(name, "failed" if wrong else "ok", difference, wrong)


def check_promised_door(name: str, folder: str | Path, *, trust_remote_code: bool = False) -> Door:
    """Open the door called `name`, unless a library it needs is not installed or too old.

    One that would run code of the folder which is not suzoo's stays shut without `trust_remote_code`: it is "failed".
    """
    way = WAYS[name]
    if missing := way.needs and unmet(way.needs):
        return Door(name, "not checked", note=missing)
    foreign = foreign_code(folder) if "trust_remote_code" in name else ""
    if name in ("SentenceTransformer", "CrossEncoder"):
        foreign = foreign_modules(folder)
    if foreign and not trust_remote_code:
        return Door(name, "failed", note=f"not opened: {foreign}; read it, then give --trust-remote-code")
    return check_door(name, way, folder)


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
