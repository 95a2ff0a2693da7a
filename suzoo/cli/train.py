"""`suzoo train NAME RECIPE [--flags]`: the training scripts, of a checkout or of the wheel, which carries them."""

from __future__ import annotations

import argparse
import importlib
import os
import runpy
import sys
from pathlib import Path

from suzoo import terminal
from suzoo.cli._files import carried_folder
from suzoo.cli._models import positive


def scripts_on_path() -> None:
    """Scripts import their recipes from their own folder."""
    folder = str(carried_folder("training"))
    if folder not in sys.path:
        sys.path.insert(0, folder)


def names() -> list[str]:
    return sorted(path.stem.removeprefix("train_") for path in carried_folder("training").glob("train_*.py"))


def add_commands(command) -> None:
    parser = command("train", train, "Train a model: suzoo train cosent quickstart --output-dir out/x.")
    configs = sorted(path.stem for path in (carried_folder("training") / "accelerate").glob("*.yaml"))
    parser.add_argument(
        "--config",
        metavar="NAME",
        help="launch with this Accelerate configuration, for several processes: "
        f"{', '.join(configs)}, or a file. `accelerate launch … -m suzoo train` and torchrun's like work too",
    )
    parser.add_argument(
        "--num-processes", type=positive, metavar="N", help="so many processes of this machine, in place of --config's"
    )
    parser.add_argument("script", choices=names(), metavar="NAME", help=f"what to train: {', '.join(names())}")
    parser.add_argument(
        "arguments", nargs=argparse.REMAINDER, metavar="RECIPE", help="and its flags: suzoo train NAME --help"
    )


def train(options: argparse.Namespace) -> int:
    folder = carried_folder("training")
    if options.num_processes and not options.config:
        raise ValueError("--num-processes needs --config, such as --config ddp")
    scripts_on_path()
    terminal.called_as = ["suzoo", "train", options.script]
    sys.argv = [" ".join(terminal.called_as), *options.arguments]
    if not {"-q", "--quiet"}.isdisjoint(options.arguments):
        terminal.be_quiet()
    importlib.import_module("recipes.command_line").look_ahead(options.script)
    if options.config:
        config = folder / "accelerate" / f"{options.config}.yaml"
        config = config if config.exists() else Path(options.config)
        if not config.is_file():
            raise ValueError(f"there is no Accelerate configuration {options.config}: neither ours nor a file")
        launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config)]
        launch += ["--num_processes", str(options.num_processes)] if options.num_processes else []
        os.execv(sys.executable, [*launch, "-m", "suzoo", "train", options.script, *options.arguments])
    runpy.run_path(str(folder / f"train_{options.script}.py"), run_name="__main__")
    return 0
