"""Loading of models: one sentence where it fails, and the options every subcommand has for it."""

from __future__ import annotations

import argparse
import contextlib
import textwrap
from collections.abc import Generator
from pathlib import Path
from typing import Any

from suzoo.reach import check_folder_or_hub, model_folder
from suzoo.terminal import sentence


def quiet() -> None:
    """No notes and bars of transformers on the way; errors are raised."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


@contextlib.contextmanager
def loading(name: str) -> Generator[None]:
    """Whatever goes wrong inside becomes one sentence about the model `name`."""
    check_folder_or_hub(name)
    quiet()
    try:
        yield
    except Exception as error:
        said = textwrap.shorten(sentence(error), 500, placeholder=" …")
        if not Path(name).exists() and "connect" in said:
            said += f"; there is no folder {name} here, so it was looked for on the Hub"
        raise ValueError(f"cannot load {name}: {said}") from error


def on_device(model, options: argparse.Namespace):
    """`model` in evaluation mode where `--device` wants it."""
    import torch

    return model.to(options.device or ("cuda" if torch.cuda.is_available() else "cpu")).eval()


def source(options: argparse.Namespace) -> dict[str, Any]:
    """The keywords of every `from_pretrained`. Without a word about trust, transformers would ask on the terminal, and
    take what is piped in for the answer."""
    return {"revision": options.revision, "trust_remote_code": options.trust_remote_code}


def load_tokenizer(config, options: argparse.Namespace):
    """The tokenizer saved with a model; transformers makes one up of special tokens alone where there is none."""
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(options.model, config=config, **source(options))
    except (OSError, ValueError) as error:
        if "trust_remote_code=True" in str(error):
            raise
        raise ValueError("it has no usable tokenizer; save one into the folder") from error
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise ValueError("it has no usable tokenizer; save one into the folder")
    return tokenizer


def model_name(text: str) -> str:
    """What a command line calls a model, as `from_pretrained` takes it."""
    try:
        return model_folder(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def add_model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=model_name, help="folder of a saved model, its name on the Hub, or embedded:NAME")
    add_source_options(parser)
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: cuda if there is one)")
    parser.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16", "float16"])


def add_source_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--revision", help="branch, tag or commit of a Hub model")
    add_trust_option(parser)


def add_trust_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--trust-remote-code", action="store_true", help="run Python code that the model brings along; read it first"
    )


def add_self_terminating_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--self-terminating",
        type=float,
        metavar="EPSILON",
        help="each step gives the end this share more of what is left (default: as the model was saved); 0 is off",
    )


def set_self_terminating(model, epsilon: float | None) -> None:
    """The non-monotonic rule, which also fits a model that was trained without it, in place of the saved one."""
    from suzoo.models._self_terminating import SelfTerminatingHead

    if epsilon == 0:
        model.config.self_terminating = None
    elif epsilon is not None:
        SelfTerminatingHead(0, epsilon, monotonic=False).write(model.config)


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not positive")
    return value
