"""What a flag says about itself, in its annotation: `lr: Annotated[float, Setting(above=0)]`. No table repeats it."""

from __future__ import annotations

import dataclasses
import functools
import math
import typing
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Setting:
    above: float | None = None
    """Every value is above this, if any is given."""
    least: float | None = None
    """The smallest value."""
    most: float | None = None
    """The largest value."""
    off: Any = None
    """The value at which the flag does nothing."""
    part_of: tuple[str, ...] = ()
    """The flag says something only beside one of these: `vat` where --vat is on, `loss=focal` where --loss is focal."""
    resume: bool = False
    """--resume may change it: it does not change what comes out."""
    shown: bool = True
    """The model card prints it."""
    alias: str | None = None
    """A short name on the command line."""


@functools.cache
def settings_of(kind: Any) -> dict[str, Setting]:
    """The `Setting` of every field of a recipe's class; fields without one have the default."""
    hints = typing.get_type_hints(kind, include_extras=True)
    found = {}
    for field in dataclasses.fields(kind):
        facts = getattr(hints[field.name], "__metadata__", ())
        found[field.name] = next((fact for fact in facts if isinstance(fact, Setting)), Setting())
    return found


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def is_on(recipe: Any, name: str) -> bool:
    """Whether the flag does anything in this recipe: it has a value, not the one that is off."""
    value, off = getattr(recipe, name), settings_of(type(recipe))[name].off
    return value is not None and value is not False and (off is None or value != off)


def counts(recipe: Any, name: str) -> bool:
    """Whether a flag says something beside the others: what it is part of is on."""

    def holds(condition: str) -> bool:
        other, equals, value = condition.partition("=")
        return str(getattr(recipe, other)) == value if equals else is_on(recipe, other)

    part_of = settings_of(type(recipe))[name].part_of
    return not part_of or any(map(holds, part_of))


def check_ranges(recipe: Any) -> None:
    """Refuse numbers out of their range, or no numbers at all, before anything is read or written."""
    for name, setting in settings_of(type(recipe)).items():
        value = getattr(recipe, name)
        if not isinstance(value, int | float) or isinstance(value, bool):
            continue
        limits = [
            (setting.above is None or value > setting.above, f"above {setting.above}"),
            (setting.most is not None or setting.least is None or value >= setting.least, f"{setting.least} or more"),
            (setting.most is None or (setting.least or 0) <= value <= setting.most,
             f"from {setting.least or 0} to {setting.most}"),
            (math.isfinite(value), "finite"),
        ]  # fmt: skip
        for holds, demand in limits:
            if not holds:
                raise ValueError(f"{flag(name)} must be {demand}, not {value}")


def changeable(recipe: Any) -> set[str]:
    """Names of the flags that --resume may change."""
    return {name for name, setting in settings_of(type(recipe)).items() if setting.resume}


def shown(recipe: Any) -> dict[str, Any]:
    """The settings that made the model: none that are empty, off or without effect beside the others."""
    found = {}
    for name, setting in settings_of(type(recipe)).items():
        value = getattr(recipe, name)
        if setting.shown and value not in ((), "") and is_on(recipe, name) and counts(recipe, name):
            found[name] = value
    return found
