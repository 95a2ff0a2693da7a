"""`suzoo demo`: a page in the browser with what the models can do."""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys

from suzoo.cli._models import add_trust_option, positive

DEFAULT = ("cosent", "quickstart")  # no weights come with suzoo: the recipe makes them


def default_model() -> str:
    """The folder of the model that is shown when none is named; trained at first use, kept in the cache.

    Raises:
        ValueError: the training failed.
    """
    from suzoo.data.stored import cache_folder

    folder = cache_folder() / "demo" / DEFAULT[1]
    if not (folder / "golden.safetensors").is_file():
        recipe = f"suzoo train {' '.join(DEFAULT)}"
        print(
            f"no model is named: training one by `{recipe}`, about four minutes, once. It stays in {folder}.",
            file=sys.stderr,
        )
        command = [sys.executable, "-m", "suzoo", "train", *DEFAULT, "--output-dir", str(folder), "--resume"]
        if status := subprocess.run(command).returncode:
            raise ValueError(f"the model for the demo was not trained (exit code {status}); `{recipe}` shows why")
    return str(folder)


def demo(options: argparse.Namespace) -> int:
    from suzoo.demo import launch

    if not options.models:
        importlib.import_module("suzoo.demo.page")  # gradio is missed before a model is trained, not after

    launch(
        options.models or [default_model()],
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
        help="folders of saved models, or their names on the Hub; without one, a small encoder is trained and shown",
    )
    sub.add_argument("--host", help="address to listen at; 0.0.0.0 is open to others (default: 127.0.0.1)")
    sub.add_argument("--port", type=positive, help="(default: the first free one from 7860)")
    sub.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: cuda if there is one)")
    sub.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16", "float16"])
    sub.add_argument("--layout", choices=["cdial", "dialogpt"], help="of chats whose model does not say it")
    add_trust_option(sub)
