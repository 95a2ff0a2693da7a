"""Recipes of train_two_tasks.py. Each docstring holds its command; training/LOG.md has the runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from recipes.base import PairTraining, SentenceEncoding
from recipes.loss_table import SENTENCE_LOSSES
from recipes.regularizers import Regularized
from recipes.settings import Setting, flag

CLASSES = ("tasks=similarity_classes",)
SIMBERT = ("tasks=simbert",)


@dataclass(frozen=True, kw_only=True)
class TwoTasks(PairTraining, SentenceEncoding, Regularized):
    group = "loss"

    tasks: Literal["similarity_classes", "simbert"] = "similarity_classes"
    """similarity_classes: a sentence encoder on the similarity of graded pairs and the classes of texts. simbert: a
    UniLM that writes one text of a pair from the other, and whose [CLS] tells the pairs of a batch apart (SimBERT,
    kexue.fm/archives/7427); it is saved as a UniLM and, in encoder/, as a sentence encoder."""
    loss: Annotated[Literal["cosent", "angle"], Setting(part_of=CLASSES)] = "cosent"
    """similarity_classes: the loss of the first task, as in train_cosent.py."""
    scale: Annotated[float, Setting(above=0)] = 20.0
    """Inverse temperature of the cosines; SimBERT has 30."""
    also: Annotated[str, Setting(part_of=CLASSES)] = "embedded:classes_zh"
    """Texts with a class each, on which the same encoder is trained as a second task. Its classification layer is saved
    beside the encoder, in second_task/."""
    also_split: Annotated[str | None, Setting(part_of=CLASSES)] = None
    """Split of --also."""
    also_columns: Annotated[tuple[str, ...], Setting(part_of=CLASSES)] = ()
    """Column names of --also, as in text=sentence label=category."""
    also_dev: str | None = None
    """Texts with classes to report the accuracy of the second task on at the end."""
    also_dev_split: Annotated[str | None, Setting(part_of=("also_dev",))] = None
    """Split of --also-dev; default as of --dev-split."""
    mix: Annotated[Literal["proportional", "alternate", "together"], Setting(part_of=CLASSES)] = "proportional"
    """Which data feeds a step: one set, drawn by their sizes; by turns; or both."""
    also_weight: Annotated[float, Setting(least=0)] = 1.0
    """Weight of the loss of the second task: classes, or contrast."""
    weighting: Literal["sum", "primary_auxiliary", "min_norm", "inverse_gradient_norm", "pcgrad"] = "sum"
    """Where a step has both tasks (--mix together, simbert): how their gradients become one. primary_auxiliary follows
    the first as far as that does not make the second worse (kexue.fm/archives/8907)."""
    alike_from: Annotated[float | None, Setting(part_of=SIMBERT)] = None
    """simbert: pairs of this label or more say the same, and others are left out; default: the data has no labels."""
    max_scored: Annotated[int, Setting(least=0, resume=True, part_of=SIMBERT)] = 200
    """simbert: dev texts that are rewritten and scored at the end; 0 is none."""

    @property
    def cited(self) -> list[str]:
        own = ("contrastive_loss",) if self.tasks == "simbert" else SENTENCE_LOSSES[self.loss].citations
        return [*own, *super().cited]

    @property
    def loop_options(self) -> dict[str, Any]:
        if self.tasks == "simbert":
            return super().loop_options | {"monitor": "loss", "greater_is_better": False}
        return super().loop_options

    def check(self) -> None:
        super().check()
        if self.adapter_only:
            raise ValueError("--lora-save adapter would leave the second task's layer without its encoder: use merged")
        if self.tasks == "simbert":
            given = [name for name in ("prompt", "pooling", "also_dev") if getattr(self, name) is not None]
            given += ["encoder"] * (self.encoder != "bert")
            if foreign := [*given, *self.regularizers]:
                raise ValueError(f"{flag(foreign[0])} is for --tasks similarity_classes, not for simbert")
        if self.weighting == "sum":
            return
        if self.tasks == "similarity_classes" and self.mix != "together":
            raise ValueError(f"--weighting {self.weighting} needs both tasks in every step: --mix together")
        if self.micro_batches > 1:
            raise ValueError(f"--weighting {self.weighting} takes a step at once: use --micro-batches 1")
        if self.precision == "fp16":
            raise ValueError(
                f"--weighting {self.weighting} takes the gradients of each task by itself, which fp16's loss scale "
                "does not reach: use bf16"
            )


def quickstart() -> TwoTasks:
    """accelerate launch training/train_two_tasks.py quickstart

    The small encoder of train_cosent.py's quickstart, which also learns to name the ten classes of embedded requests.
    """
    return TwoTasks(
        output_dir="out/two-tasks",
        also_dev="embedded:classes_zh",
        hidden_size=128,
        num_layers=2,
        pooling="mean",
        lr=1e-3,
        epochs=4,
        batch_size=64,
    )


def finetune() -> TwoTasks:
    """accelerate launch training/train_two_tasks.py finetune --model hfl/chinese-macbert-base --data pairs.tsv --also
    texts.tsv

    The settings of train_cosent.py's finetune.
    """
    return TwoTasks(output_dir="out/two-tasks", lr=2e-5, epochs=5, batch_size=32, schedule="constant", warmup=0.0)


def simbert() -> TwoTasks:
    """accelerate launch training/train_two_tasks.py simbert --model bert-base-chinese --data similar.jsonl --dev
    dev.jsonl --alike-from None

    SimBERT's setting (kexue.fm/archives/7427: 128 pairs per step, scale 30, 32 tokens per text) from any BERT with its
    MLM head and pairs that say the same. As it stands: a small model from scratch on the embedded pairs that say the
    same (synthetic).
    """
    return TwoTasks(
        tasks="simbert",
        output_dir="out/simbert",
        alike_from=5.0,
        scale=30.0,
        max_length=32,
        hidden_size=128,
        num_layers=3,
        lr=2e-3,
        epochs=20,
        batch_size=64,
    )


RECIPES = {"quickstart": quickstart, "finetune": finetune, "simbert": simbert}
