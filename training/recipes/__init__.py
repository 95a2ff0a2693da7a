"""Recipes: which model, data and numbers a script trains with, as flags; and the frame that all scripts share.

Scripts import this package before torch (pyproject.toml sorts it so). Then `--help` and mistakes need not wait for
torch, and its threads wait for each other without holding a core. With one core less than there are threads, those that
spin keep the one that computes from running. Beside a busy process on two cores a step took three times as long.
"""

import os
import sys
from pathlib import Path

from suzoo.terminal import be_quiet, prepare_streams, tell


def _interrupted(kind, error, traceback) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
    else:
        print("interrupted", file=sys.stderr)


sys.excepthook = _interrupted  # Ctrl-C while torch is imported, before `run_script`

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

_script = Path(sys.argv[0])
if _script.stem.startswith("train_") and _script.resolve().parent == Path(__file__).resolve().parents[1]:
    if {"-q", "--quiet"} & set(sys.argv[1:]):
        be_quiet()
    from recipes.command_line import look_ahead

    try:
        look_ahead(_script.stem.removeprefix("train_"))
    except Exception as error:
        prepare_streams(escape=True)
        sys.exit(tell(error))
