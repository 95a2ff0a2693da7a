"""Recipes of train_distill.py. Each docstring holds its command; training/LOG.md has the runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from recipes.base import ExampleTraining, SentenceEncoding
from recipes.settings import Setting

CUT = ("model=None",)


@dataclass(frozen=True, kw_only=True)
class Distillation(ExampleTraining, SentenceEncoding):
    group = "model"

    data: tuple[str, ...] = ("embedded:pairs_zh",)
    """Training texts, one sentence each: embedded:<name>, .txt, a table or a folder (also .gz), a Hub dataset. Pairs
    give both their texts; labels are not looked at."""
    dev: str | None = None
    """Pairs with scores to choose the best weights by; default is the dev split of --data."""
    teacher: str | None = None
    """Folder or Hub name of the encoder whose vectors the student learns. They are computed once and kept in the
    cache."""
    model: str | None = None
    """Student to start from, with its own tokenizer; without it one is cut out of the teacher."""
    layers: Annotated[tuple[int, ...], Setting(part_of=CUT)] = ()
    """Layers of the teacher that the student keeps, from 0, as 0 4 8 11; default is --num-layers of them, evenly
    spread."""
    num_layers: Annotated[int, Setting(least=1, part_of=CUT)] = 4
    """Of the student, where --layers does not say which."""
    hidden_size: Annotated[int, Setting(least=0, off=0, part_of=CUT)] = 0
    """Of the student; 0 is the teacher's. A smaller one keeps the coordinates, heads and inner units that weigh most,
    and gets a linear layer back to the teacher's vectors."""
    vocab_size: Annotated[int, Setting(least=0, off=0, part_of=CUT)] = 0
    """Tokens of the student: those of the teacher that the training texts use most; 0 keeps all."""
    encoder: Annotated[Literal["bert", "gru", "bigru"], Setting(part_of=CUT)] = "bert"
    """bert: cut out of the teacher. gru, bigru: random, but for the words, which are the teacher's along their main
    directions; for small devices."""
    cosine_weight: Annotated[float, Setting(least=0, off=0)] = 1.0
    """Of 1 - cosine of the student's and the teacher's vector; takes vectors of one size."""
    relation_weight: Annotated[float, Setting(least=0, off=0)] = 1.0
    """Of the relations: which texts of the batch are near to which."""
    relation_scale: Annotated[float, Setting(above=0, part_of=("relation_weight",))] = 20.0
    """Inverse temperature of the relations' cosines."""

    @property
    def cited(self) -> list[str]:
        losses = {"cosine_distillation_loss": self.cosine_weight, "relation_distillation_loss": self.relation_weight}
        return [*(name for name, weight in losses.items() if weight), *super().cited]

    def check(self) -> None:
        super().check()
        if not self.cosine_weight and not self.relation_weight:
            raise ValueError("--cosine-weight 0 and --relation-weight 0 leave nothing to learn")
        if self.adapter_only:
            raise ValueError("--lora-save adapter needs the student it adapts saved: use --lora-save merged")


def quickstart() -> Distillation:
    """accelerate launch training/train_distill.py quickstart

    After `train_cosent.py quickstart`, whose encoder is the teacher: one layer of 64 that finds its vectors.
    """
    return Distillation(
        output_dir="out/distilled",
        data=("embedded:pairs_zh",),
        teacher="out/quickstart",
        num_layers=1,
        hidden_size=64,
        lr=1e-3,
        epochs=10,
        batch_size=64,
    )


def finetune() -> Distillation:
    """accelerate launch training/train_distill.py finetune --teacher TEACHER --data texts.txt --dev pairs.tsv

    Four layers of the teacher in its own width, its most frequent 10,000 tokens.
    """
    return Distillation(output_dir="out/distilled", vocab_size=10_000, lr=1e-4, epochs=3, batch_size=64)


def mini() -> Distillation:
    """accelerate launch training/train_distill.py mini --teacher TEACHER --data texts.txt --dev pairs.tsv

    Four layers of 256 and 9,500 tokens: under 12 MB in half precision.
    """
    return Distillation(
        output_dir="out/mini",
        hidden_size=256,
        vocab_size=9_500,
        dropout=0.0,  # it learns less than it could, not too much
        lr=1e-3,
        epochs=4,
        batch_size=256,
        warmup=0.05,
    )


RECIPES = {"quickstart": quickstart, "finetune": finetune, "mini": mini}
