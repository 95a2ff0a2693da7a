"""`suzoo script NAME …`: the scripts of hub_scripts/, of a checkout or of the wheel, which carries them."""

from __future__ import annotations

import argparse
import runpy
import sys
from pathlib import Path


def scripts_folder() -> Path:
    """`hub_scripts/`: package data in a wheel, beside the package in a checkout."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "hub_scripts"
    return inside if inside.is_dir() else package.parent / "hub_scripts"


def script(options: argparse.Namespace) -> int:
    sys.argv = [f"suzoo script {options.script}", *options.arguments]
    runpy.run_path(str(scripts_folder() / f"{options.script}.py"), run_name="__main__")
    return 0


def add_commands(command) -> None:
    parser = command("script", script, "Run a script of hub_scripts/: convert from bert4keras, write a Space.")
    names = sorted(path.stem for path in scripts_folder().glob("*.py"))
    parser.add_argument("script", choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument(
        "arguments", nargs=argparse.REMAINDER, metavar="ARGUMENT", help="its own: suzoo script NAME --help"
    )
