"""`suzoo demo`: a page in the browser with what the models can do."""

from __future__ import annotations

import argparse
from pathlib import Path

from suzoo.cli._models import add_trust_option, positive

MAKE_ONE = (
    "name the folders of your models, such as `suzoo demo out/quickstart`; "
    "`suzoo train cosent quickstart` makes that one in about four minutes, without data"
)


def demo(options: argparse.Namespace) -> int:
    if not options.models:
        here = sorted(str(path.parent) for path in Path("out").glob("*/golden.safetensors"))
        raise ValueError(f"there is no built-in model: {MAKE_ONE}" + (f"; here are {', '.join(here)}" if here else ""))
    from suzoo.demo import launch

    launch(
        options.models,
        host=options.host,
        port=options.port,
        device=options.device,
        dtype=options.dtype,
        layout=options.layout,
        trust_remote_code=options.trust_remote_code,
    )
    return 0


def add_commands(command) -> None:
    sub = command("demo", demo, "Try models in the browser: compare, search, chat, titles, spelling, scores, explain.")
    sub.add_argument("models", nargs="*", metavar="MODEL", help="folders of saved models, or their names on the Hub")
    sub.add_argument("--host", help="address to listen at; 0.0.0.0 is open to others (default: 127.0.0.1)")
    sub.add_argument("--port", type=positive, help="(default: the first free one from 7860)")
    sub.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: cuda if there is one)")
    sub.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16", "float16"])
    sub.add_argument("--layout", choices=["cdial", "dialogpt"], help="of chats whose model does not say it")
    add_trust_option(sub)
