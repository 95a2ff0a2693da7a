"""The command `suzoo`. Every subcommand imports what it needs when it runs, so that `--help` answers at once.

Exit codes: 0 done, 1 the folder does not verify, 2 a mistake of the user's (one sentence on stderr), 130 interrupted.
SUZOO_TRACEBACK=1 shows where an error came from.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import NoReturn

from suzoo import __version__
from suzoo.chinese import local
from suzoo.cli import (
    chat,
    compare,
    completion,
    demo,
    encoders,
    examples,
    explain,
    folders,
    language_models,
    scripts,
    train,
    vocabulary,
    zoo,
)
from suzoo.terminal import be_quiet, prepare_streams, tell


class _Parser(argparse.ArgumentParser):
    """Its errors in the user's language; subcommands are of the same class."""

    def error(self, message: str) -> NoReturn:
        super().error(local(message))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="suzoo", description=local("Use, check and publish suzoo's models."), allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"suzoo {__version__}")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bars and no notes; errors stay")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, function, help: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=local(help), description=local(help), allow_abbrev=False)
        sub.set_defaults(function=function)
        return sub

    for module in (
        train,
        encoders,
        language_models,
        vocabulary,
        chat,
        explain,
        demo,
        compare,
        folders,
        zoo,
        examples,
        scripts,
        completion,
    ):
        module.add_commands(command)
    commands.choices["completion"].set_defaults(commands=commands.choices)
    return parser


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    prepare_streams(escape=False)
    if options.quiet:
        be_quiet()
    try:
        return options.function(options)
    except BrokenPipeError:  # the reader of our stdout, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print(local("interrupted"), file=sys.stderr)
        return 130
    except Exception as error:
        return tell(error, f"suzoo {options.command}")
