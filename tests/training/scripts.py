"""Run a training script inside the test process, as a user runs it on the command line."""

from __future__ import annotations

import sys

import pytest
from accelerate.state import AcceleratorState

from suzoo.engine import run_script


def run(monkeypatch, script, *arguments: str) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)  # one process runs several scripts here
    monkeypatch.setattr(sys, "argv", [script.__name__ + ".py", *map(str, arguments)])
    run_script(script.main)


def refused(monkeypatch, capsys, script, *arguments) -> str:
    """The sentence a run is refused with; nothing but that sentence and exit code 2."""
    with pytest.raises(SystemExit) as caught:
        run(monkeypatch, script, *arguments)
    assert caught.value.code == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("error: ")
    return message
