"""Recipes of train_classifier.py. Each docstring holds its command; training/LOG.md has the runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from recipes.regularizers import Regularized
from recipes.settings import Setting

CITED = {
    "focal": "focal_loss",
    "logit_adjustment": "logit_adjusted_cross_entropy",
    "class_balanced": "class_balanced_weights",
    "f1": "f1_weighted_bce",
    "dice": "dice_loss",
    "multilabel": "multilabel_cross_entropy",
}


@dataclass(frozen=True, kw_only=True)
class Classification(Regularized):
    group = "loss"

    loss: str = "ce"
    """One class per text: ce, focal, logit_adjustment, class_balanced, f1, dice. Several:
    bce, multilabel, focal, f1, dice."""
    label_smoothing: Annotated[float, Setting(least=0, most=1, off=0, part_of=("loss=ce",))] = 0.0
    """ce only: share of the target given to all classes alike."""
    gamma: Annotated[float, Setting(least=0, part_of=("loss=focal",))] = 2.0
    """focal only: how much less counts what is right already."""
    tau: Annotated[float, Setting(least=0, part_of=("loss=logit_adjustment",))] = 1.0
    """logit_adjustment only: weight of the logarithm of the class frequencies."""
    beta: Annotated[float, Setting(least=0, most=1, part_of=("loss=class_balanced",))] = 0.999
    """class_balanced only: 0 weights all classes alike, near 1 by inverse frequency."""
    f1_momentum: Annotated[float, Setting(least=0, most=1, part_of=("loss=f1",))] = 0.99
    """f1 only: weight of the past in the running F1 of each class."""
    post_hoc_tau: Annotated[float, Setting(off=0)] = 0.0
    """Report the dev scores also with this times the logarithm of the class frequencies taken off the logits; below 0,
    which takes back a training with tau, put onto them."""
    tail_below: Annotated[int, Setting(least=0)] = 100
    """Classes with fewer training rows are the tail that tail_f1 is reported on."""
    monitor: str = "macro_f1"
    """The dev score by which the best weights are chosen."""

    @property
    def cited(self) -> list[str]:
        return [*([CITED[self.loss]] if self.loss in CITED else []), *super().cited]

    @property
    def loop_options(self) -> dict[str, Any]:
        return super().loop_options | {"monitor": self.monitor}

    def check(self) -> None:
        super().check()
        if self.adapter_only:
            raise ValueError("--lora-save adapter would leave the classification layer out: use merged")
        if self.loss == "dice" and self.micro_batches > 1:
            raise ValueError("--loss dice is a ratio over the whole step: use --micro-batches 1")


def quickstart() -> Classification:
    """accelerate launch training/train_classifier.py quickstart

    A small classifier from scratch on the embedded Chinese requests (synthetic): ten classes, the rarest a fortieth of
    the most frequent. Dev macro F1 .730; --loss ce gives .669, its logits adjusted afterwards (--post-hoc-tau 1) .784,
    --loss class_balanced .912.
    """
    return Classification(
        output_dir="out/classifier",
        data=("embedded:classes_zh",),
        loss="logit_adjustment",
        hidden_size=128,
        num_layers=2,
        lr=1e-3,
        epochs=4,
    )


def finetune() -> Classification:
    """accelerate launch training/train_classifier.py finetune --model hfl/chinese-macbert-base --data texts.jsonl

    The setting of the blog's runs on TNEWS and IFLYTEK (kexue.fm/archives/8496): 2e-5, batches of 32 texts.
    """
    return Classification(output_dir="out/classifier", data=("embedded:classes_zh",), epochs=5, max_length=128)


def scratch() -> Classification:
    """accelerate launch training/train_classifier.py scratch --data texts.jsonl --dev dev.jsonl

    A small classifier on your own texts, without a pretrained model.
    """
    return Classification(output_dir="out/classifier", data=("embedded:classes_zh",), lr=5e-4, epochs=10)


RECIPES = {"quickstart": quickstart, "finetune": finetune, "scratch": scratch}
