"""Recipes of train_tta.py. Each docstring holds its command and the result it gave; training/LOG.md has the runs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from recipes.language_model import LanguageModelTraining
from recipes.settings import Setting


@dataclass(frozen=True, kw_only=True)
class TTA(LanguageModelTraining):
    group = "task"

    data: tuple[str, ...] = ("embedded:text_zh",)
    """Training texts, one sentence each: embedded:<name>, .txt, a table or a folder (also .gz), a Hub dataset."""
    objective: Literal["tta", "mlm"] = "tta"
    """tta: predict every token from all others (arXiv 2004.08097). mlm: the baseline, a stock BertForMaskedLM."""
    query_init: Annotated[Literal["mask", "position"], Setting(part_of=("objective=tta",))] = "mask"
    """tta from scratch: what the queries start from, the authors' code or their paper's formula."""
    mask_probability: Annotated[float, Setting(above=0, most=1, part_of=("objective=mlm",))] = 0.15
    """mlm: share of the tokens to predict, drawn anew for every batch."""
    words: Annotated[Literal["single", "blanks", "jieba"], Setting(part_of=("objective=mlm",))] = "single"
    """mlm: mask single tokens, whole words divided by blanks in the text, or whole words found by jieba."""
    typos: str | None = None
    """tta: rows of a source with typos and its correction (columns source and target), to be corrected at the end."""
    confusion: tuple[str, ...] = ()
    """Confusion sets for --typos: files as suzoo.data.read_confusions takes them; `embedded` is the embedded set."""
    max_scored: Annotated[int, Setting(least=0, resume=True)] = 200
    """Dev texts whose exact pseudo-perplexity is computed at the end; 0 is none."""

    def check(self) -> None:
        super().check()
        if self.objective == "mlm" and self.typos:
            raise ValueError("--typos are corrected by T-TA; a masked language model has no one-pass suggestions")
        own = self.positions != "absolute" or self.window or self.log_n != "off" or self.random_positions
        if self.objective == "mlm" and own:
            raise ValueError("--objective mlm is a stock BERT, which has --positions absolute only, and all it sees")


def quickstart() -> TTA:
    """accelerate launch training/train_tta.py quickstart

    A small T-TA from scratch on embedded Chinese sentences (synthetic), which then corrects embedded typos:
    pseudo-perplexity 1.39, and .475 of the sentences it changes are right.
    """
    return TTA(
        output_dir="out/tta",
        hidden_size=128,
        num_layers=3,
        lr=1e-3,
        epochs=10,
        micro_batch_tokens=2048,
        typos="embedded:typos_zh",
        confusion=("embedded",),
    )


def scratch() -> TTA:
    """accelerate launch training/train_tta.py scratch --data sentences.txt.gz --dev dev.txt

    The paper's three layers of 512 on your own sentences, by its optimizer settings.
    """
    return TTA(
        output_dir="out/tta-scratch",
        hidden_size=512,
        num_layers=3,
        vocab_size=21128,
        max_length=128,
        lr=1e-4,
        micro_batch_tokens=8192,
    )


def mlm() -> TTA:
    """accelerate launch training/train_tta.py mlm --data sentences.txt.gz --dev dev.txt

    The masked language model of the same size and budget as `scratch`: T-TA's baseline, and a start for other models.
    """
    return replace(scratch(), output_dir="out/mlm", objective="mlm")


RECIPES = {"quickstart": quickstart, "scratch": scratch, "mlm": mlm}
