"""The folders and files that flags name: whether they are there, and whether --overwrite would delete them.

No torch here, so that a mistyped name is told at once: `command_line.look_ahead`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from recipes.base import Training
from recipes.settings import flag

from suzoo.reach import check_folder_or_hub, not_empty, why_no_data

QUICKSTART = "out/quickstart"  # the encoder of train_cosent.py quickstart, from which other quickstarts begin
MODELS = ("model", "vocabulary", "teacher")
DATA = ("data", "dev", "ranked", "also", "also_dev", "typos")


def check_names(recipe: Training) -> None:
    """
    Raises:
        ValueError: a folder or file that is not there, --data that says nothing of the dev data, or an --overwrite that
            would delete what the run reads.
    """
    if getattr(recipe, "teacher", "") is None:
        raise ValueError("whose vectors shall the student learn? Give a trained encoder by --teacher")
    for name, path in _named(recipe, MODELS):
        if path == QUICKSTART and not os.path.isdir(path):
            raise ValueError(f"train {path} first (train_cosent.py quickstart), or name another one with {flag(name)}")
        try:
            check_folder_or_hub(path)
        except ValueError as error:
            raise ValueError(f"{flag(name)}: {error}") from None
    for _, path in _named(recipe, DATA):
        if reason := why_no_data(path):
            raise ValueError(reason)
    _ = recipe.dev_data
    emptied = Path(recipe.output_dir).resolve()
    for name, path in _named(recipe, (*MODELS, *DATA)):
        if recipe.overwrite and os.path.exists(path) and Path(path).resolve().is_relative_to(emptied):
            raise ValueError(f"--overwrite would delete {path}, which {flag(name)} names: choose another --output-dir")


def check_output(recipe: Training) -> None:
    """
    Raises:
        ValueError: the output folder holds a finished run, and the flags say nothing of it.
    """
    if (Path(recipe.output_dir) / "run.json").exists() and not (recipe.overwrite or recipe.resume):
        raise ValueError(not_empty(recipe.output_dir))


def _named(recipe: Training, names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(field, path) of each that has one; some have several."""
    for name in names:
        given = getattr(recipe, name, None) or ()
        yield from ((name, path) for path in ((given,) if isinstance(given, str) else given))
