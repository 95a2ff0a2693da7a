"""Recipes of train_cosent.py. Each docstring holds its command and the result it gave; training/LOG.md has the runs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from recipes.base import PairTraining, SentenceEncoding
from recipes.loss_table import SENTENCE_LOSSES
from recipes.regularizers import Regularized
from recipes.settings import Setting, flag


@dataclass(frozen=True, kw_only=True)
class CoSENT(PairTraining, SentenceEncoding, Regularized):
    group = "loss"

    loss: Literal["cosent", "angle", "sbert"] = "cosent"
    """cosent: rank pairs by cosine. angle: rank them by AnglE's angle in complex space (arXiv 2309.12871). sbert:
    Sentence-BERT's classifier over [u; v; |u-v|], the article's baseline. In-batch contrast: train_contrastive.py."""
    scale: Annotated[float, Setting(above=0)] = 20.0
    """Inverse temperature of the cosines."""
    class_threshold: Annotated[float, Setting(part_of=("loss=sbert",))] = 0.5
    """sbert only: labels above it are class 1, others 0 (the article cuts STS-B at 2.5)."""

    @property
    def cited(self) -> list[str]:
        return [*SENTENCE_LOSSES[self.loss].citations, *super().cited]

    def check(self) -> None:
        super().check()
        if self.loss == "sbert" and self.regularizers:
            raise ValueError(f"{flag(self.regularizers[0])} is for --loss cosent and angle, not sbert")


def quickstart() -> CoSENT:
    """accelerate launch training/train_cosent.py quickstart

    A small encoder from scratch on the embedded Chinese pairs (synthetic): dev Spearman .546, where the overlap of
    characters gives -.14.
    """
    return CoSENT(
        output_dir="out/quickstart",
        data=("embedded:pairs_zh",),
        hidden_size=128,
        num_layers=2,
        pooling="mean",
        lr=1e-3,
        epochs=10,
        batch_size=64,
    )


def finetune() -> CoSENT:
    """accelerate launch training/train_cosent.py finetune --model hfl/chinese-macbert-base --data pairs.jsonl

    The article's setting (kexue.fm/archives/8847): 2e-5, batches of 32 pairs, 5 epochs, best dev Spearman.
    """
    return CoSENT(output_dir="out/finetune", lr=2e-5, epochs=5, batch_size=32, schedule="constant", warmup=0.0)


def scratch() -> CoSENT:
    """accelerate launch training/train_cosent.py scratch --data pairs.tsv --dev dev.tsv

    A small encoder on your own pairs, without a pretrained model.
    """
    return CoSENT(output_dir="out/scratch", pooling="mean", lr=5e-4, epochs=10, batch_size=64)


def sbert() -> CoSENT:
    """accelerate launch training/train_cosent.py sbert --data pairs.tsv --dev dev.tsv --class-threshold 2.5

    The Sentence-BERT baseline at the budget of `scratch`; training/LOG.md compares the two.
    """
    return replace(scratch(), output_dir="out/sbert", loss="sbert")


RECIPES = {"quickstart": quickstart, "finetune": finetune, "scratch": scratch, "sbert": sbert}
