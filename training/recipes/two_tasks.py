"""Recipes of train_two_tasks.py. Each docstring holds its command; training/LOG.md has the runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from recipes.base import PairTraining
from recipes.regularizers import Regularized
from recipes.settings import Setting

if TYPE_CHECKING:
    pass


@dataclass(frozen=True, kw_only=True)
class TwoTasks(PairTraining, Regularized):
    group = "loss"

    scale: Annotated[float, Setting(above=0)] = 20.0
    """Inverse temperature of the cosines of CoSENT, the first task."""
    pooling: Literal["cls", "mean", "first-last-avg"] | None = None
    """Default: what the model's folder says, else cls."""
    also: str = "embedded:classes_zh"
    """Texts with a class each, on which the same encoder is trained as a second task. Its classification layer is saved
    beside the encoder, in second_task/."""
    also_split: str | None = None
    """Split of --also."""
    also_columns: tuple[str, ...] = ()
    """Column names of --also, as in text=sentence label=category."""
    also_dev: str | None = None
    """Texts with classes to report the accuracy of the second task on at the end."""
    also_dev_split: Annotated[str | None, Setting(part_of=("also_dev",))] = None
    """Split of --also-dev; default of an embedded corpus is dev."""
    mix: Literal["proportional", "alternate", "together"] = "proportional"
    """Which data feeds a step: one set, drawn by their sizes; by turns; or both."""
    also_weight: Annotated[float, Setting(least=0)] = 1.0
    """Weight of the second task's loss."""
    weighting: Literal["sum", "primary_auxiliary", "min_norm", "inverse_gradient_norm", "pcgrad"] = "sum"
    """--mix together only: how the gradients of both tasks become one. primary_auxiliary follows the similarity as far
    as that does not make the second task worse (kexue.fm/archives/8907)."""

    @property
    def cited(self) -> list[str]:
        return ["cosent_loss", *super().cited]

    def check(self) -> None:
        super().check()
        if self.adapter_only:
            raise ValueError("--lora-save adapter would leave the second task's layer without its encoder: use merged")
        if self.weighting == "sum":
            return
        if self.mix != "together":
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


RECIPES = {"quickstart": quickstart, "finetune": finetune}
