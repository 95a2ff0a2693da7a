"""The command line of a script, made from its recipes: every field is a flag, in groups."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import itertools
import textwrap
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar

import tyro

Recipe = TypeVar("Recipe")
GROUPS = ("data", "model", "training", "loss", "task", "regularizers", "output")  # as --help shows them


def parse(recipes: Mapping[str, Callable[[], Recipe]], description: str | None) -> Recipe:
    """The recipe that the command line names, with its flags applied."""
    made = {name: function() for name, function in recipes.items()}
    choices = {name: (inspect.getdoc(recipes[name]) or "", _grouped(recipe)) for name, recipe in made.items()}
    chosen: Any = tyro.extras.overridable_config_cli(
        choices, description=description, config=(tyro.conf.OmitArgPrefixes,)
    )
    values = {
        field.name: getattr(group, field.name)
        for group in (getattr(chosen, part.name) for part in dataclasses.fields(chosen))
        for field in dataclasses.fields(group)
    }
    return type(next(iter(made.values())))(**values)


def _grouped(recipe: Any) -> Any:
    """The same values in one dataclass per group, which is how tyro makes groups of flags."""
    groups: dict[str, list] = {}
    hints = typing.get_type_hints(type(recipe), include_extras=True)
    lineage = [kind for kind in type(recipe).__mro__ if dataclasses.is_dataclass(kind)]
    for field in dataclasses.fields(recipe):
        # the group of the class that says it first: one that says it again changes the default or the words only
        group = next(kind.group for kind in reversed(lineage) if field.name in inspect.get_annotations(kind))
        told = next(_docs(kind)[field.name] for kind in lineage if field.name in _docs(kind))
        hint = Annotated[hints[field.name], tyro.conf.arg(help=told)]  # ty: ignore[invalid-type-form]
        groups.setdefault(group, []).append((field.name, hint, getattr(recipe, field.name)))
    parts = {}
    for title in sorted(groups, key=GROUPS.index):
        kind = dataclasses.make_dataclass(
            title,
            [(name, hint, dataclasses.field(default=value)) for name, hint, value in groups[title]],
            frozen=True,
        )
        kind.__doc__ = " "
        parts[title] = kind()
    fields = [(title, type(part), dataclasses.field(default=part)) for title, part in parts.items()]
    return dataclasses.make_dataclass(type(recipe).__name__, fields, frozen=True)()


@functools.cache
def _docs(kind: type) -> dict[str, str]:
    """The string below each field of a class."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for field, below in itertools.pairwise(definition.body):
        is_text = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
        if isinstance(field, ast.AnnAssign) and is_text:
            found[ast.unparse(field.target)] = " ".join(str(below.value.value).split())
    return found
