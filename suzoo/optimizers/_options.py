"""Ranges of options, and what is checked of every group."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from suzoo.optimizers._tensors import ROUNDINGS


class Range(NamedTuple):
    """The values an option may have: a test of one, and what to say about the others."""

    text: str
    holds: Callable[[Any], bool]

    def check(self, owner: str, name: str, value: Any) -> None:
        if not self.holds(value):
            raise ValueError(f"{owner}: {name} must be {self.text}, not {value!r}")


def number(text: str, holds: Callable[[float], bool]) -> Range:
    """A number (no bool) that is not NaN, for which `holds` is true."""
    return Range(text, lambda v: isinstance(v, int | float) and not isinstance(v, bool) and v == v and holds(v))


def pair(text: str, first: Range, second: Range) -> Range:
    return Range(
        text, lambda v: isinstance(v, tuple | list) and len(v) == 2 and first.holds(v[0]) and second.holds(v[1])
    )


def optional(of: Range) -> Range:
    return Range(f"None or {of.text}", lambda v: v is None or of.holds(v))


def one_of(*choices: str) -> Range:
    return Range(f"one of {', '.join(choices)}", lambda v: isinstance(v, str) and v in choices)


NOT_NEGATIVE = number("a finite number and not negative", lambda v: 0 <= v < math.inf)
POSITIVE = number("a positive, finite number", lambda v: 0 < v < math.inf)
BELOW_1 = number("a number in [0, 1)", lambda v: 0 <= v < 1)
BETAS = pair("two numbers in [0, 1)", BELOW_1, BELOW_1)
EPS = number("at least 1e-30, or 0 / 0 appears", lambda v: 1e-30 <= v < math.inf)
FLAG = Range("True or False", lambda v: isinstance(v, bool))
COUNT = Range("a whole number from 1 on", lambda v: isinstance(v, int) and not isinstance(v, bool) and v >= 1)
MOMENTUM_DTYPE = Range("None, torch.float32 or torch.bfloat16", lambda v: v in (None, "float32", "bfloat16"))

# of every optimizer; foreach only where there is such a form
COMMON = {"lr": NOT_NEGATIVE, "weight_decay": NOT_NEGATIVE, "rounding": one_of(*ROUNDINGS), "compile": FLAG}
FOREACH = Range("None, True or False", lambda v: v is None or isinstance(v, bool))
# of those whose rule names them; for the others a group may only say that they are off
OFFERED = {"lazy": False, "momentum_dtype": None, "accumulation_steps": 1}


def check_options(owner: str, ranges: Mapping[str, Range], has_foreach: bool, options: Mapping[str, Any]) -> None:
    """Raise a ValueError for an option of a group that is out of range, or that this optimizer does not have.

    Args:
        ranges: of the options that are this optimizer's own.
    """
    for name, allowed in {**COMMON, **({"foreach": FOREACH} if has_foreach else {}), **ranges}.items():
        allowed.check(owner, name, options[name])
    if options["foreach"] and not has_foreach:
        raise ValueError(f"{owner} has no multi-tensor form: leave foreach out of the group")
    for name, off in OFFERED.items():
        if name not in ranges and options.get(name, off) != off:
            raise ValueError(f"{owner} has no {name}={options[name]!r}: leave {name} out of the group")


def check_bfloat16_momentum(options: Mapping[str, Any], beta: float) -> None:
    if options["momentum_dtype"] == "bfloat16" and beta > 0.99:
        raise ValueError(
            f"a bfloat16 momentum cannot decay by {beta}: from 0.995 on m * beta rounds back to m. Use beta <= 0.99 or "
            "a float32 momentum"
        )


def plain_types(options: dict[str, Any]) -> dict[str, Any]:
    """As groups keep options, because checkpoints hold plain types: a dtype by its name, no numbers of numpy."""
    plain = {}
    for name, value in options.items():
        if isinstance(value, torch.dtype):
            value = str(value).removeprefix("torch.")
        elif isinstance(value, np.generic):
            value = value.item()
        plain[name] = value
    return plain
