"""BibTeX of what made a model: its architecture and the methods that its recipe switched on.

The entries are in `model_cards/citations.bib`, under the keys that the losses use too: `kexue` or `arxiv` and a number.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

POSITIONS = {"nezha": ["arxiv190900204"], "rope": ["kexue8265", "arxiv210409864"]}
# fields of a recipe: of numbers and switches when they are on, of choices by the choice
SWITCHES = {
    "lora_r": ["arxiv210609685"],
    "fgm": ["kexue7234", "arxiv160507725"],
    "pgd": ["kexue7234", "arxiv170606083"],
    "vat": ["kexue7466", "arxiv170403976"],
    "gradient_penalty": ["kexue7234"],
    "embedding_noise": ["kexue7466"],
    "weissi": ["kexue7681", "arxiv200802965"],
    "random_replacement": ["kexue7259"],
}
CHOICES = {
    "optimizer": {
        "lion": ["kexue9473", "arxiv230206675"],
        "tiger": ["kexue9512"],
        "adafactor": ["kexue7302", "arxiv180404235"],
        "adax": ["kexue7387", "arxiv200409740"],
        "adaxw": ["kexue7387", "arxiv200409740"],
        "lazy_adamw": ["kexue6869"],
        "accumulated_sgd": ["kexue8634"],
        "accumulated_adamw": ["kexue8634"],
    },
    "weighting": {
        "primary_auxiliary": ["kexue8907"],
        "min_norm": ["kexue8896"],
        "inverse_gradient_norm": ["kexue8896"],
        "pcgrad": ["kexue8896", "arxiv200106782"],
    },
    "own_metric": {name: ["kexue7521", "arxiv200603158"] for name in ("rouge_l", "distinct_2")},
    "self_terminating": {
        "monotonic": ["kexue7500", "arxiv200202492"],
        "non_monotonic": ["kexue7500", "arxiv221000660"],
    },
}


def read_entries(text: str) -> dict[str, str]:
    """{key: entry} of BibTeX."""
    entries = re.split(r"\n(?=@)", text.strip()) if text.strip() else []
    return {re.match(r"@\w+\{([^,\s]+)", entry)[1]: entry.strip() for entry in entries}  # ty: ignore[not-subscriptable]


def citations(run: dict, architecture: Iterable[str], positions: str | None, bibliography: Path) -> str:
    """The BibTeX of a card, each entry once.

    Args:
        run: the record of the run; its own `citations` are those of the losses.
        architecture: keys of the entries of its kind of model, see `tasks.TASKS`.
        positions: the model's `position_embedding_type`.
        bibliography: `citations.bib`.
    """
    known = read_entries(bibliography.read_text(encoding="utf-8"))
    keys = [*architecture, *POSITIONS.get(positions or "", ()), *_methods(run["recipe"])]
    chosen = {key: known[key] for key in keys} | read_entries(run.get("citations") or "")
    return "\n\n".join(chosen.values())


def _methods(recipe: dict[str, Any]) -> Iterable[str]:
    for field, keys in SWITCHES.items():
        if recipe.get(field):
            yield from keys
    for field, choices in CHOICES.items():
        yield from choices.get(recipe.get(field), ())
