"""What a program says, and where to: streams that may be closed or take ASCII only, and one sentence for an error."""

from __future__ import annotations

import io
import os
import pickle
import sys


def prepare_streams(*, escape: bool) -> None:
    """A closed stdin reads as an empty one; characters that a stream can't hold are escaped.

    Args:
        escape: on every stream; else on terminals only, because what is piped on would be other data.
    """
    if sys.stdin is None:
        sys.stdin = open(os.devnull)  # noqa: SIM115  for the life of the process
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and (escape or stream is sys.stderr or stream.isatty()):
            stream.reconfigure(errors="backslashreplace")


def be_quiet() -> None:
    """No progress bars and no notes from now on; before the libraries are loaded that read these."""
    os.environ.update(
        TQDM_DISABLE="1", HF_HUB_DISABLE_PROGRESS_BARS="1", TRANSFORMERS_VERBOSITY="error", SUZOO_QUIET="1"
    )


def is_quiet() -> bool:
    return os.environ.get("SUZOO_QUIET") == "1"


def is_mistake(error: BaseException) -> bool:
    """Whether a user can mend it: bad input, a file, a disk. All else is a fault of ours and shows its traceback."""
    if isinstance(error, ValueError | OSError | pickle.UnpicklingError):
        return True
    from safetensors import SafetensorError

    return isinstance(error, SafetensorError)


def sentence(error: BaseException) -> str:
    """What to tell a user whose mistake this is."""
    if isinstance(error, UnicodeEncodeError):
        shown = error.object[error.start : error.start + 1]
        return f"the output takes {error.encoding} only, which has no {shown!a}: set PYTHONIOENCODING=utf-8"
    if isinstance(error, OSError) and error.strerror and error.filename:
        message = f"{error.filename}: {error.strerror}"
    else:
        message = " ".join(str(error).split())
    if isinstance(error, pickle.UnpicklingError):
        message = f"a weights file is damaged, or holds more than weights, which torch refuses ({message[:80]})"
    if "trust_remote_code=True" in message:  # transformers' own words are for programmers
        message = "the model needs Python code that it brings along: read it, then give --trust-remote-code"
    return message


def is_full_disk(message: str) -> bool:
    return "No space left" in message or "File too large" in message
