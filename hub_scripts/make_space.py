"""Write a Gradio Space that shows suzoo models: `suzoo script make_space OUTPUT MODEL…`, then `hf upload`.

OUTPUT gets `app.py`, which calls `suzoo.demo.launch`, `requirements.txt`, the card `README.md`, and this suzoo itself,
so that the Space runs what you tried with `suzoo demo`. Folders are copied into it, as much of them as `suzoo push`
would send; models named `owner/name` are loaded from the Hub when the Space starts.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import shutil
import sys
from importlib import metadata
from pathlib import Path

import suzoo
from suzoo.cli._models import model_name
from suzoo.terminal import script_parser, tell

PACKAGE = Path(suzoo.__file__).resolve().parent
APP = '''"""A demo of trained models, made by suzoo's hub_scripts/make_space.py. On your machine: python app.py"""

import os
from pathlib import Path

from suzoo.demo import launch

if __name__ == "__main__":
    os.chdir(Path(__file__).parent)
    launch({models}, {options})
'''
CARD = """---
title: {quoted}
emoji: 🦁
colorFrom: blue
colorTo: yellow
sdk: gradio
sdk_version: {gradio}
python_version: "3.11"
app_file: app.py
{models}---

# {title}

{list}

Made with suzoo {version}; `python app.py` runs the same page on your machine.
"""


def main(arguments: list[str] | None = None) -> int:
    parser = script_parser(__doc__)
    parser.add_argument("output", type=Path, help="folder of the Space; new, or an older one with --overwrite")
    parser.add_argument(
        "models", nargs="+", metavar="MODEL", type=model_name, help="folders of saved models, or names on the Hub"
    )
    parser.add_argument("--title", default="suzoo", help="of the page and the card (default: suzoo)")
    parser.add_argument("--layout", choices=["cdial", "dialogpt"], help="of chats whose model does not say it")
    parser.add_argument("--overwrite", action="store_true", help="replace a Space that this script wrote")
    options = parser.parse_args(arguments)
    try:
        write_space(options)
    except Exception as error:
        return tell(error, parser.prog)
    print(f"written to {options.output}; try it: python {options.output / 'app.py'}")
    print(f"publish it: hf upload OWNER/NAME {options.output} . --repo-type space")
    return 0


def write_space(options: argparse.Namespace) -> None:
    from suzoo.hub.contents import copy_contents  # not for --help

    output = options.output
    folders = {name: Path(name) for name in options.models if Path(name).is_dir()}
    check(options, folders)
    if output.exists():
        shutil.rmtree(output)
    output.mkdir(parents=True)
    places = {name: f"models/{folder.resolve().name}" for name, folder in folders.items()}
    for name, folder in folders.items():
        copy_contents(folder, output / places[name])
    shutil.copytree(PACKAGE, output / "suzoo", ignore=shutil.ignore_patterns("__pycache__"))
    names = [places.get(name, name) for name in options.models]
    keywords = {"title": options.title} | ({"layout": options.layout} if options.layout else {})
    said = ", ".join(f"{key}={value!r}" for key, value in keywords.items())
    (output / "app.py").write_text(APP.format(models=names, options=said), encoding="utf-8")
    (output / "requirements.txt").write_text("".join(f"{line}\n" for line in requirements()), encoding="utf-8")
    hub = [name for name in options.models if name not in folders]
    card = CARD.format(
        title=options.title,
        quoted=json.dumps(options.title, ensure_ascii=False),
        gradio=metadata.version("gradio"),
        models="".join(["models:\n", *(f"- {name}\n" for name in hub)]) if hub else "",
        list="\n".join(f"- `{name}`" for name in names),
        version=metadata.version("suzoo"),
    )
    (output / "README.md").write_text(card, encoding="utf-8")


def check(options: argparse.Namespace, folders: dict[str, Path]) -> None:
    """Fail before anything is written.

    Raises:
        ValueError: gradio is not installed, a folder holds no model, a name is none of the Hub, two folders have one
            name, OUTPUT is something else than an older Space.
    """
    try:
        metadata.version("gradio")
    except metadata.PackageNotFoundError as error:
        raise ValueError('the demo needs gradio: pip install "suzoo[demo]"') from error
    from huggingface_hub.utils import HFValidationError, validate_repo_id
    from transformers import AutoConfig

    importlib.import_module("suzoo.models")  # the auto classes know our models by it

    for name in options.models:
        if name in folders:
            if not (folders[name] / "config.json").is_file():
                raise ValueError(f"{name} has no config.json: it is no folder of a saved model")
            AutoConfig.from_pretrained(name, trust_remote_code=False)
            continue
        try:
            validate_repo_id(name)
        except HFValidationError as error:
            raise ValueError(f"{name} is neither a folder nor a name on the Hub") from error
    short = [folder.resolve().name for folder in folders.values()]
    if twice := {name for name in short if short.count(name) > 1}:
        raise ValueError(f"two folders are called {', '.join(sorted(twice))}: rename one")
    if not re.fullmatch(r"[^\n\"\\]+", options.title):
        raise ValueError("--title is one line without quotes and backslashes")
    if inside := [name for name, folder in folders.items() if options.output.resolve() in folder.resolve().parents]:
        raise ValueError(f"{inside[0]} is inside {options.output}, which is to be written: take another folder")
    if options.output.exists() and any(options.output.iterdir()):
        app = options.output / "app.py"
        is_ours = app.is_file() and "hub_scripts/make_space.py" in app.read_text(encoding="utf-8")
        if not (is_ours and options.overwrite):
            raise ValueError(f"{options.output} is not empty; --overwrite replaces a Space that this script wrote")


def requirements() -> list[str]:
    """What the demo of this suzoo needs, and gradio as it is here."""
    from packaging.requirements import Requirement

    needed = [Requirement(line) for line in metadata.requires("suzoo") or ()]
    chosen = [one for one in needed if one.marker is None or one.marker.evaluate({"extra": "demo"})]
    lines = [f"{one.name}{one.specifier}" for one in chosen if one.name not in ("suzoo", "gradio")]
    return [*lines, f"gradio=={metadata.version('gradio')}"]


if __name__ == "__main__":
    sys.exit(main())
