"""The models of a demo: opened once, as the `suzoo` commands open them, and told apart by what they can do."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from suzoo.cli import chat, encoders, explain, language_models
from suzoo.cli._models import loading, source
from suzoo.reach import check_folder_or_hub, model_folder

# what a user finds on the page, and the kinds of models that can do it, in the order of the tabs
TASKS = {
    "Compare": ("encoder",),
    "Search": ("encoder", "cross-encoder"),
    "Chat": ("chat",),
    "Titles": ("unilm",),
    "Spelling": ("tta",),
    "Scores": ("tta",),
    "Explain": ("encoder", "cross-encoder", "classifier", "masked-lm", "tta", "chat", "unilm"),
}


class Opened(NamedTuple):
    """A model in evaluation mode. `name` is what the page calls it, `origin` its folder or its name on the Hub."""

    name: str
    origin: str
    kind: str
    model: Any
    tokenizer: Any
    layout: str | None = None


def open_models(
    names: Sequence[str],
    *,
    device: str | None = None,
    dtype: str = "auto",
    layout: str | None = None,
    trust_remote_code: bool = False,
) -> list[Opened]:
    """The arguments are those of `suzoo.demo.launch`.

    Raises:
        ValueError: there are none; one cannot be opened.
    """
    if not names:
        raise ValueError("a demo needs models: name the folders of some, or their names on the Hub")
    names = list(dict.fromkeys(model_folder(str(name)) for name in names))
    for name in names:  # a mistyped one before the others are opened
        check_folder_or_hub(name)
    short = Counter(Path(name).name for name in names)
    opened = []
    for name in names:
        common = {"revision": None, "trust_remote_code": trust_remote_code, "device": device, "dtype": dtype}
        options = argparse.Namespace(model=name, **common)
        label = Path(name).name if short[Path(name).name] == 1 else name
        kind, model, tokenizer = _open(options)
        if kind == "chat":
            chat.check_layout(name, model, layout)
        opened.append(Opened(label, str(name), kind, model, tokenizer, layout if kind == "chat" else None))
    return opened


def _open(options: argparse.Namespace) -> tuple[str, Any, Any]:
    """Kind, model and tokenizer, by the function of the command that is for this kind."""
    with loading(options.model):
        from transformers import AutoConfig

        import suzoo.models  # noqa: F401  the auto classes know our models by it

        kind = kind_of(AutoConfig.from_pretrained(options.model, **source(options)))
    if kind in ("encoder", "cross-encoder"):
        model = encoders.load(kind, options)
        return kind, model, model.tokenizer
    if kind in ("unilm", "tta"):
        return kind, *language_models.load(kind, f"it is no {kind} model", options)
    if kind == "chat":
        return kind, *chat.load(options)
    return kind, *explain.load(options)


def kind_of(config: Any) -> str:
    """The kind of a saved model, one of those in `TASKS`; what has no head is a sentence encoder."""
    if config.model_type in ("unilm", "tta"):
        return config.model_type
    name = (config.architectures or [""])[0]
    if name.endswith("ForSequenceClassification"):
        return "cross-encoder" if config.num_labels == 1 else "classifier"
    if name.endswith(("ForCausalLM", "LMHeadModel")):
        return "chat"
    return "masked-lm" if name.endswith("ForMaskedLM") else "encoder"


def able(opened: Sequence[Opened], task: str) -> list[Opened]:
    """Those that can do a task of `TASKS`."""
    return [one for one in opened if one.kind in TASKS[task]]
