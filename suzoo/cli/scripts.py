"""`suzoo script NAME …`: the scripts of hub_scripts/, of a checkout or of the wheel, which carries them."""

from __future__ import annotations

import argparse
import runpy
import sys

from suzoo import terminal
from suzoo.cli._files import carried_folder


def script(options: argparse.Namespace) -> int:
    terminal.called_as = ["suzoo", "script", options.script]
    sys.argv[1:] = options.arguments  # runpy puts the path before them
    runpy.run_path(str(carried_folder("hub_scripts") / f"{options.script}.py"), run_name="__main__")
    return 0


def add_commands(command) -> None:
    parser = command("script", script, "Run a script of hub_scripts/: convert from bert4keras, write a Space.")
    names = sorted(path.stem for path in carried_folder("hub_scripts").glob("*.py"))
    parser.add_argument("script", choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument(
        "arguments", nargs=argparse.REMAINDER, metavar="ARGUMENT", help="its own: suzoo script NAME --help"
    )
