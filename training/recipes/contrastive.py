"""Recipes of train_contrastive.py. Each docstring holds its command; training/LOG.md has the runs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from recipes.base import ExampleTraining, SentenceEncoding
from recipes.loss_table import SENTENCE_LOSSES
from recipes.settings import Setting

IN_BATCH = ("loss=info_nce", "loss=flat_nce")


@dataclass(frozen=True, kw_only=True)
class Contrastive(ExampleTraining, SentenceEncoding):
    group = "loss"

    examples: Annotated[Literal["queries", "texts"], Setting(part_of=IN_BATCH)] = "queries"
    """queries: rows of a query, a positive and, where there are some, negatives. texts: plain texts, two dropout passes
    of which are query and positive (SimCSE); --dev is then pairs with scores. supcon and am_softmax take texts with a
    class each."""
    loss: Literal["info_nce", "flat_nce", "supcon", "am_softmax"] = "info_nce"
    """info_nce: find the positive among those of the batch (MultipleNegativesRankingLoss of sentence-transformers).
    flat_nce: the same without fading gradients (kexue.fm/archives/8586). supcon: texts of one class attract each other.
    am_softmax: a direction per class, with a margin (kexue.fm/archives/5743)."""
    scale: Annotated[float, Setting(above=0)] = 20.0
    """Inverse temperature of the cosines; the papers have 20 for info_nce, 10 for supcon, 30 for am_softmax."""
    margin: Annotated[float, Setting(least=0, part_of=("loss=am_softmax",))] = 0.35
    """am_softmax only: what the cosine of the right class must be ahead."""
    negatives: Annotated[Literal["cross", "all"], Setting(part_of=IN_BATCH)] = "cross"
    """cross: a query finds its positive. all: each of both finds the other among all texts, as SimBERT does."""
    num_negatives: Annotated[int | None, Setting(least=0, part_of=("examples=queries",))] = None
    """Hard negatives per query; default is as many as every query has."""
    hard_negative_weight: Annotated[float, Setting(off=0, part_of=("examples=queries",))] = 0.0
    """Added to the logits of a query's own hard negatives: the logarithm of a weight."""
    keep_false_negatives: Annotated[bool, Setting(part_of=IN_BATCH)] = False
    """Count a text as negative also where its query or it itself says the same as a row's own, which by default is left
    out."""

    @property
    def takes_classes(self) -> bool:
        return SENTENCE_LOSSES[self.loss].data == "classes"

    @property
    def cited(self) -> list[str]:
        return [*SENTENCE_LOSSES[self.loss].citations, *super().cited]

    @property
    def loop_options(self) -> dict[str, Any]:
        monitor = "accuracy" if self.takes_classes else "spearman" if self.examples == "texts" else "mrr@10"
        return super().loop_options | {"monitor": monitor}

    def check(self) -> None:
        super().check()
        if self.examples == "texts" and self.dropout == 0 and not self.takes_classes:
            raise ValueError("--examples texts compares two passes with dropout: give a --dropout above 0")


def quickstart() -> Contrastive:
    """accelerate launch training/train_contrastive.py quickstart

    A small encoder from scratch that finds the article of a title, on embedded Chinese news (synthetic).
    """
    return Contrastive(
        output_dir="out/contrastive",
        data=("embedded:queries_zh",),
        hidden_size=128,
        num_layers=2,
        pooling="mean",
        max_length=128,
        lr=1e-3,
        epochs=2,
        batch_size=64,
    )


def finetune() -> Contrastive:
    """accelerate launch training/train_contrastive.py finetune --model hfl/chinese-macbert-base --data queries.jsonl
    --dev dev.jsonl --batch-size 2048 --micro-batches 64

    Thousands of negatives per query: --micro-batches divides the memory, and the gradient stays that of the batch.
    """
    return Contrastive(
        output_dir="out/contrastive", data=("embedded:queries_zh",), lr=2e-5, epochs=1, batch_size=256, max_length=128
    )


def simcse() -> Contrastive:
    """accelerate launch training/train_contrastive.py simcse --model hfl/chinese-macbert-base --data texts.txt
    --dev pairs.tsv

    SimCSE from plain texts, by its authors' settings (arXiv 2104.08821).
    """
    return Contrastive(
        output_dir="out/simcse",
        data=("embedded:text_zh",),
        examples="texts",
        dev="embedded:pairs_zh",
        lr=3e-5,
        epochs=1,
        batch_size=64,
        max_length=32,
        warmup=0.0,
        evaluate_every=125,
    )


def classes() -> Contrastive:
    """accelerate launch training/train_contrastive.py classes --data texts.jsonl --dev dev.jsonl

    Texts with a class each, as in the blog's experiments on question matching with AM-Softmax (kexue.fm/archives/5743).
    """
    return Contrastive(
        output_dir="out/am-softmax",
        data=("embedded:classes_zh",),
        loss="am_softmax",
        scale=30.0,
        hidden_size=128,
        num_layers=2,
        pooling="mean",
        lr=1e-3,
        epochs=4,
        batch_size=64,
    )


def gru() -> Contrastive:
    """accelerate launch training/train_contrastive.py gru --data texts.jsonl --dev dev.jsonl

    The encoder of that article: a GRU of 128 over embeddings of 128, its state behind the last token, batches of 100.
    """
    return replace(
        classes(),
        output_dir="out/gru",
        encoder="gru",
        num_layers=1,
        pooling=None,
        max_length=32,
        batch_size=100,
        epochs=15,
    )


RECIPES = {"quickstart": quickstart, "finetune": finetune, "simcse": simcse, "classes": classes, "gru": gru}
