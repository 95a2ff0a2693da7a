"""A folder that another library opened and saved again: what people do before they change or move a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class Resave(NamedTuple):
    """A way of saving a folder again.

    Attributes:
        save: takes the folder and where to save it.
        needs: as in `Way`.
        opens: the doors that open afterwards, of those promised. What a library does not know it does not save.
    """

    save: Callable[[str, str], None]
    needs: str | None = None
    opens: tuple[str, ...] | None = None


def _by_transformers(auto_class: str, trust: bool = False) -> Callable[[str, str], None]:
    def save(folder: str, target: str) -> None:
        import transformers

        model = getattr(transformers, auto_class).from_pretrained(folder, trust_remote_code=trust)
        model.save_pretrained(target)
        tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=trust)
        tokenizer.save_pretrained(target)

    return save


def _by_sentence_transformers(model_class: str, trust: bool = False) -> Callable[[str, str], None]:
    def save(folder: str, target: str) -> None:
        import sentence_transformers

        model = getattr(sentence_transformers, model_class)(folder, device="cpu", trust_remote_code=trust)
        model.save_pretrained(target)

    return save


ENCODER = ("AutoTokenizer", "AutoModel")
CROSS_ENCODER = ("AutoTokenizer", "AutoModelForSequenceClassification", "text-classification pipeline")
RESAVES = {
    "saved by SentenceTransformer": Resave(
        _by_sentence_transformers("SentenceTransformer"), "sentence-transformers", ("SentenceTransformer", *ENCODER)
    ),
    "saved by AutoModel": Resave(_by_transformers("AutoModel"), None, ENCODER),
    "saved by CrossEncoder": Resave(
        _by_sentence_transformers("CrossEncoder"), "sentence-transformers", ("CrossEncoder", *CROSS_ENCODER)
    ),
    "saved by AutoModelForSequenceClassification": Resave(
        _by_transformers("AutoModelForSequenceClassification"), None, CROSS_ENCODER
    ),
}
RESAVES["saved by SentenceTransformer, trust_remote_code"] = Resave(
    _by_sentence_transformers("SentenceTransformer", trust=True), "sentence-transformers"
)
RESAVES["saved by AutoModel, trust_remote_code"] = Resave(
    _by_transformers("AutoModel", trust=True), None, tuple(f"{door}, trust_remote_code" for door in ENCODER)
)
for _name in ("AutoModelForCausalLM", "AutoModelForMaskedLM"):
    RESAVES[f"saved by {_name}"] = Resave(_by_transformers(_name))
    RESAVES[f"saved by {_name}, trust_remote_code"] = Resave(_by_transformers(_name, trust=True))


def opens_again(name: str, doors: list[str]) -> tuple[list[str], bool]:
    """(which of a folder's doors open when it was saved again so, whether others do not any more).

    What the folder's own code opens is not counted where a stock class saved: it copies no code.
    """
    opens, others = RESAVES[name].opens, [door for door in doors if door not in RESAVES and door != "files"]
    if opens is None:
        return others, False
    if "trust_remote_code" not in name:
        others = [door for door in others if "trust_remote_code" not in door]
    kept = [door for door in others if door in opens]
    return kept, kept != others
