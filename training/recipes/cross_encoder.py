"""Recipes of train_cross_encoder.py. Each docstring holds its command; training/LOG.md has the runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from recipes.base import PairTraining
from recipes.regularizers import Regularized
from recipes.settings import Setting


@dataclass(frozen=True, kw_only=True)
class CrossEncoder(PairTraining, Regularized):
    group = "loss"

    loss: Literal["cosent", "bce"] = "cosent"
    """cosent: rank the pairs of a batch (kexue.fm/archives/9341). bce: cross-entropy of each, labels in [0, 1]."""
    scale: Annotated[float, Setting(above=0, part_of=("loss=cosent",))] = 1.0
    """cosent only: inverse temperature; the score has its own scale, so 1."""

    def limits(self, texts: Sequence[str], lengths: Sequence[int]) -> list[tuple[str, int, int]]:
        return [(" | ".join(texts), sum(lengths), self.max_length - 3)]

    @property
    def cited(self) -> list[str]:
        return [*["cosent_loss"] * (self.loss == "cosent"), *super().cited]


def quickstart() -> CrossEncoder:
    """accelerate launch training/train_cross_encoder.py quickstart

    After `train_cosent.py quickstart`, from whose encoder it starts, on the same pairs (synthetic): dev Spearman .567.
    From scratch it does not learn to compare two texts: .09.
    """
    return CrossEncoder(
        output_dir="out/cross-encoder", model="out/quickstart", lr=5e-4, epochs=7, batch_size=64, max_length=96
    )


def finetune() -> CrossEncoder:
    """accelerate launch training/train_cross_encoder.py finetune --model hfl/chinese-macbert-base --data pairs.jsonl

    The article's setting (kexue.fm/archives/9341): 2e-5, batches of 64 pairs, 128 tokens per pair.
    """
    return CrossEncoder(
        output_dir="out/cross-finetune", epochs=5, batch_size=64, max_length=128, schedule="constant", warmup=0.0
    )


def scratch() -> CrossEncoder:
    """accelerate launch training/train_cross_encoder.py scratch --data pairs.tsv --dev dev.tsv

    A small cross-encoder on your own pairs, without a pretrained model.
    """
    return CrossEncoder(output_dir="out/cross-scratch", lr=5e-4, epochs=10, batch_size=64, max_length=128)


RECIPES = {"quickstart": quickstart, "finetune": finetune, "scratch": scratch}
