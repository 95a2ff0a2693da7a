"""The command line of a script, made from its recipes: every field is a flag, in groups."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import itertools
import json
import os
import sys
import textwrap
import typing
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, TypeVar

from recipes.names import check_names, check_output
from recipes.settings import check_ranges, settings_of

import tyro

Recipe = TypeVar("Recipe")
GROUPS = ("data", "model", "training", "loss", "task", "regularizers", "output")  # as --help shows them


def parse(recipes: Mapping[str, Callable[[], Recipe]], description: str | None) -> Recipe:
    """The recipe that the command line names, with its flags applied."""
    made: dict[str, Any] = {name: function() for name, function in recipes.items()}
    told = {name: inspect.getdoc(function) or "" for name, function in recipes.items()}
    arguments, path = _without(sys.argv[1:], "--from-run")
    if path is not None:
        if set(arguments[:1]) & made.keys():
            raise ValueError(f"--from-run takes the place of the recipe {arguments[0]}: give one of the two")
        made["from-run"], told["from-run"] = repeated(path, type(next(iter(made.values())))), f"As {path}."
        arguments = ["from-run", *arguments]
    choices = {name: (told[name], _grouped(recipe)) for name, recipe in made.items()}
    chosen: Any = tyro.extras.overridable_config_cli(
        choices, description=description, args=arguments, config=(tyro.conf.OmitArgPrefixes,)
    )
    values = {
        field.name: getattr(group, field.name)
        for group in (getattr(chosen, part.name) for part in dataclasses.fields(chosen))
        for field in dataclasses.fields(group)
    }
    return type(next(iter(made.values())))(**values)


def look_ahead(script: str) -> None:
    """Answers --help, and refuses flags and names that are wrong, before torch is loaded, which takes seconds.

    One of several processes answers --help only: they tell each other what is wrong, in `run_script`.

    Args:
        script: its name without `train_`, which its recipes have, too, if there are any.

    Raises:
        ValueError: what `frame.begin` refuses, too, as far as it needs no library to see it.
    """
    is_one_of_several = os.environ.get("WORLD_SIZE", "1") != "1" and not {"-h", "--help"} & set(sys.argv[1:])
    if is_one_of_several or not (Path(__file__).parent / f"{script}.py").exists():
        return
    recipe: Any = parse(import_module(f"recipes.{script}").RECIPES, f"Train by train_{script}.py.")
    check_ranges(recipe)
    recipe.check()
    check_names(recipe)
    check_output(recipe)


def _without(arguments: Sequence[str], name: str) -> tuple[list[str], str | None]:
    """The arguments without `name VALUE` or `name=VALUE`, and the value."""
    for place, argument in enumerate(arguments):
        if argument.startswith(f"{name}="):
            return [*arguments[:place], *arguments[place + 1 :]], argument.partition("=")[2]
        if argument == name:
            if place + 1 == len(arguments):
                raise ValueError(f"{name} needs the run.json of a run")
            return [*arguments[:place], *arguments[place + 2 :]], arguments[place + 1]
    return list(arguments), None


def repeated(path: str, kind: type[Recipe]) -> Recipe:
    """The recipe of a finished run, to be run again beside it and pushed nowhere.

    Args:
        path: its run.json, or its folder.

    Raises:
        ValueError: no such file, not the record of a run, or one of another script.
    """
    file = Path(path) / "run.json" if Path(path).is_dir() else Path(path)
    try:
        run = json.loads(file.read_text(encoding="utf-8"))
        given, script = dict(run["recipe"]), Path(run["script"]).stem
    except OSError as error:
        raise ValueError(f"--from-run {path}: {error.strerror}; give the run.json of a finished run") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"--from-run {path} is not the record of a run: give the run.json that it wrote") from error
    own = f"train_{kind.__module__.rpartition('.')[2]}"
    if script != own:
        raise ValueError(f"--from-run {path} is a run of {script}.py, not of {own}.py")
    if unknown := given.keys() - {field.name for field in dataclasses.fields(kind)}:  # ty: ignore[invalid-argument-type]
        raise ValueError(
            f"--from-run {path} has the flags {', '.join(sorted(unknown))}, which this version does not: "
            f"repeat it with suzoo {run.get('versions', {}).get('suzoo')}"
        )
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    threads = given.get("cpu_threads") or run.get("threads") or 0  # sums are rounded by the number of threads
    given |= {"from_run": str(file), "output_dir": f"{given['output_dir']}-again", "cpu_threads": threads}
    given |= dict.fromkeys(("resume", "overwrite", "preflight", "preflight_only", "quiet"), False) | {"push_to": None}
    return kind(**given)


def _grouped(recipe: Any) -> Any:
    """The same values in one dataclass per group, which is how tyro makes groups of flags."""
    groups: dict[str, list] = {}
    hints = typing.get_type_hints(type(recipe), include_extras=True)
    lineage = [kind for kind in type(recipe).__mro__ if dataclasses.is_dataclass(kind)]
    for field in dataclasses.fields(recipe):
        # the group of the class that says it first: one that says it again changes the default or the words only
        group = next(kind.group for kind in reversed(lineage) if field.name in inspect.get_annotations(kind))
        told = next(_docs(kind)[field.name] for kind in lineage if field.name in _docs(kind))
        alias = settings_of(type(recipe))[field.name].alias
        words = tyro.conf.arg(help=told, aliases=[alias] if alias else None)
        hint = Annotated[hints[field.name], words]  # ty: ignore[invalid-type-form]
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
