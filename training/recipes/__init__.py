"""Recipes: which model, data and numbers a script trains with, as flags; and the frame that all scripts share.

Scripts import this package before torch (pyproject.toml sorts it so). Then `--help` need not wait for torch.
"""

import sys
from importlib import import_module
from pathlib import Path

_script = Path(sys.argv[0])
if _script.stem.startswith("train_") and _script.resolve().parent == Path(__file__).resolve().parents[1]:
    _recipes = Path(__file__).parent / f"{_script.stem.removeprefix('train_')}.py"
    if {"-h", "--help"} & set(sys.argv[1:]) and _recipes.exists():
        from recipes.command_line import parse

        parse(import_module(f"recipes.{_recipes.stem}").RECIPES, f"Train with {_script.name}.")
