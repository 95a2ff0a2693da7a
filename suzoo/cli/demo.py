"""`suzoo demo`: a page in the browser with what the models can do."""

from __future__ import annotations

import argparse

from suzoo.cli._models import add_trust_option, positive

DEFAULT = "embedded:cosent-zh-mini"


def demo(options: argparse.Namespace) -> int:
    from suzoo.demo import launch

    launch(
        options.models or [DEFAULT],
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
    sub.add_argument(
        "models",
        nargs="*",
        metavar="MODEL",
        help=f"folders of saved models, or their names on the Hub (default: {DEFAULT})",
    )
    sub.add_argument("--host", help="address to listen at; 0.0.0.0 is open to others (default: 127.0.0.1)")
    sub.add_argument("--port", type=positive, help="(default: the first free one from 7860)")
    sub.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: cuda if there is one)")
    sub.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16", "float16"])
    sub.add_argument("--layout", choices=["cdial", "dialogpt"], help="of chats whose model does not say it")
    add_trust_option(sub)
