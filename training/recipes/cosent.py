"""Recipes of train_cosent.py. Each docstring holds its command and the result it gave; training/LOG.md has the runs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from accelerate import Accelerator
from accelerate.utils import DistributedType

from recipes._base import PairTraining
from recipes._regularizers import REGULARIZERS, Regularized


@dataclass(frozen=True, kw_only=True)
class CoSENT(PairTraining, Regularized):
    loss: Literal["cosent", "sbert"] = "cosent"
    """cosent: rank pairs by cosine. sbert: Sentence-BERT's classifier over [u; v; |u-v|], the article's baseline."""
    scale: float = 20.0
    """Inverse temperature of the cosines."""
    class_threshold: float = 0.5
    """sbert only: labels above it are class 1, others 0 (the article cuts STS-B at 2.5)."""
    pooling: Literal["cls", "mean", "first-last-avg"] | None = None
    """Default: what the model's folder says, else cls."""

    also: str | None = None
    """Texts with a class each, on which the same encoder is trained as a second task. Its classification layer is not
    saved."""
    also_split: str | None = None
    """Split of --also."""
    also_columns: tuple[str, ...] = ()
    """Column names of --also, as in text=sentence label=category."""
    also_dev: str | None = None
    """Texts with classes to report the accuracy of the second task on at the end."""
    also_dev_split: str | None = None
    """Split of --also-dev."""
    mix: Literal["proportional", "alternate", "together"] = "proportional"
    """Which data feeds a step: one set, drawn by their sizes; by turns; or both."""
    also_weight: float = 1.0
    """Weight of the second task's loss."""
    weighting: Literal["sum", "primary_auxiliary", "min_norm", "inverse_gradient_norm", "pcgrad"] = "sum"
    """--mix together only: how the gradients of both tasks become one. primary_auxiliary follows the similarity as far
    as that does not make the second task worse (kexue.fm/archives/8907)."""

    def check_tasks(self, accelerator: Accelerator) -> None:
        """Refuse flags of the second task that contradict each other, and regularizers where the loss has no place."""
        unused = [flag for flag in REGULARIZERS if getattr(self, flag)]
        if self.loss == "sbert" and unused:
            raise ValueError(f"--{unused[0].replace('_', '-')} is for --loss cosent, not sbert")
        if self.also is None:
            if self.also_dev or self.weighting != "sum":
                raise ValueError("--also-dev and --weighting are about a second task: give its data by --also")
            return
        if self.loss == "sbert":
            raise ValueError("--also is a second task beside --loss cosent, not sbert")
        if self.weighting != "sum":
            if self.mix != "together":
                raise ValueError(f"--weighting {self.weighting} needs both tasks in every step: --mix together")
            if self.micro_batches > 1:
                raise ValueError(f"--weighting {self.weighting} takes a step at once: use --micro-batches 1")
            if self.precision == "fp16" or accelerator.distributed_type == DistributedType.DEEPSPEED:
                raise ValueError(
                    f"--weighting {self.weighting} takes the gradients of each task by itself, which neither fp16's "
                    "loss scale nor DeepSpeed reaches: use bf16, DDP or FSDP2"
                )


def quickstart() -> CoSENT:
    """accelerate launch training/train_cosent.py quickstart

    A small encoder from scratch on the embedded Chinese pairs (synthetic): dev Spearman .546, where the overlap of
    characters gives -.14.
    """
    return CoSENT(
        output_dir="out/quickstart",
        data="embedded:pairs_zh",
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
