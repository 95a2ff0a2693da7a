"""What a program says, and where to: streams that may be closed or take ASCII only, and one sentence for an error."""

from __future__ import annotations

import argparse
import io
import os
import pickle
import sys

from suzoo.chinese import local

# what a user calls, where sys.argv[0] does not say it: runpy puts the script's path there
called_as: list[str] | None = None


def prog() -> str | None:
    """What argparse shall call the program; None leaves it to argparse."""
    return " ".join(called_as) if called_as else None


def script_parser(description: str | None) -> argparse.ArgumentParser:
    """For a script of hub_scripts/, which `suzoo script` may have started: its docstring as it stands is its help."""
    return argparse.ArgumentParser(
        prog=prog(), description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


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


def tell(error: Exception, who: str = "error") -> int:
    """Says a user's mistake in one sentence on stderr and returns the exit code, 2; to be called where it was caught.

    All else is raised on, and mistakes, too, where the environment variable SUZOO_TRACEBACK asks for their traceback.
    """
    if os.environ.get("SUZOO_TRACEBACK") or not is_mistake(error):
        raise error
    print(f"{who}: {local(sentence(error))}", file=sys.stderr)
    return 2


def sentence(error: BaseException) -> str:
    """What to tell a user whose mistake this is."""
    if told := _of_hub(error):
        return told
    if isinstance(error, UnicodeEncodeError):
        shown = error.object[error.start : error.start + 1]
        return f"the output takes {error.encoding} only, which has no {shown!a}: set PYTHONIOENCODING=utf-8"
    if isinstance(error, OSError) and error.strerror and error.filename:
        message = f"{error.filename}: {error.strerror}"
    else:
        message = " ".join(str(error).split()) or type(error).__name__
    # the words of torch and transformers are for programmers
    if isinstance(error, pickle.UnpicklingError) or "Weights only load failed" in message:
        return (
            "a weights file is damaged, or a pickle that would run code when it is opened: download it again, or ask "
            "its author for safetensors"
        )
    if "trust_remote_code=True" in message:
        return "the model needs Python code that it brings along: read it, and if you trust it give --trust-remote-code"
    return message


def _of_hub(error: BaseException) -> str | None:
    """What the Hub's answer behind an error of transformers means; errors of our own say it themselves."""
    if not isinstance(error, OSError) or "huggingface_hub" not in sys.modules:
        return None
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, HfHubHTTPError):
        cause = cause.__cause__
    if isinstance(cause, RepositoryNotFoundError):
        return "it is neither a folder nor a model of the Hub that this account may see"
    if cause is not None and cause.response.status_code == 401:
        return "the Hub does not accept the token: log in again with `hf auth login`, or correct HF_TOKEN"
    return None


def is_full_disk(message: str) -> bool:
    return "No space left" in message or "File too large" in message
