"""Recipes of train_unilm.py. Each docstring holds its command and the result it gave; training/LOG.md has the runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from recipes.language_model import CausalTraining
from recipes.settings import Setting

OWN_METRIC = ("own_metric=rouge_l", "own_metric=distinct_2")


@dataclass(frozen=True, kw_only=True)
class UniLM(CausalTraining):
    group = "loss"

    data: tuple[str, ...] = ("embedded:titles_zh",)
    """Training data with a source and a target: embedded:<name>, a file or folder (also .gz), or a Hub dataset."""
    max_length: Annotated[int, Setting(least=1)] = 256
    """Tokens of source and target together."""
    max_target_length: Annotated[int, Setting(least=1)] = 32
    """Tokens of the target, its [SEP] included; the rest is for the source."""
    tailr: Annotated[float, Setting(least=0, most=1, off=0)] = 0.0
    """gamma of the TaiLr loss (arXiv 2302.13344), which stops punishing what the model finds impossible; 0 is off."""
    random_replacement: Annotated[float, Setting(least=0, most=1, off=0)] = 0.0
    """Share of the rows in which 30 % of the target's inputs are replaced, against exposure bias; 0.5 in
    kexue.fm/archives/7259."""
    rdrop: Annotated[float, Setting(least=0, off=0)] = 0.0
    """alpha of R-Drop (arXiv 2106.14448): two dropout passes should agree; 0 is off."""
    fgm: Annotated[float, Setting(least=0, off=0)] = 0.0
    """Length of the adversarial step on the embeddings (kexue.fm/archives/7234); 0 is off."""
    own_metric: Literal["none", "rouge_l", "distinct_2"] = "none"
    """Train on this score of what the model writes by trying disturbed weights (MGS, kexue.fm/archives/7521), guided by
    the gradient of the usual loss: ROUGE-L with the targets, or the share of bigrams that are no repetition. It also
    chooses the best weights."""
    search_candidates: Annotated[int, Setting(least=1, part_of=OWN_METRIC)] = 4
    """own_metric: disturbed weights per step; each writes all targets of the step once."""
    search_beta: Annotated[float, Setting(least=0, part_of=OWN_METRIC)] = 100.0
    """own_metric: how much a better score counts; 0 ignores it."""
    search_noise: Annotated[float, Setting(above=0, part_of=OWN_METRIC)] = 1.0
    """own_metric: size of the disturbance, in units of the mean gradient of each tensor."""
    num_beams: Annotated[int, Setting(least=1)] = 1
    """Beams of the titles that are scored at the end, and the default of the saved model."""
    max_scored: Annotated[int, Setting(least=0, resume=True)] = 200
    """Dev rows for which targets are generated and scored at the end; 0 is none."""

    def limits(self, texts: Sequence[str], lengths: Sequence[int]) -> list[tuple[str, int, int]]:
        kept = self.max_length - self.max_target_length - 2, self.max_target_length - 1
        return list(zip(texts, lengths, kept, strict=True))

    @property
    def token_budgets(self) -> dict[str, int]:
        """What `encode_sources_targets` takes."""
        return {
            "max_source_tokens": self.max_length - self.max_target_length,
            "max_target_tokens": self.max_target_length,
        }

    @property
    def cited(self) -> list[str]:
        return [*["tailr_loss"] * bool(self.tailr), *["rdrop_loss"] * bool(self.rdrop), *super().cited]

    def check(self) -> None:
        super().check()
        if sum(value > 0 for value in (self.tailr, self.rdrop, self.label_smoothing)) > 1:
            raise ValueError("--tailr, --rdrop and --label-smoothing are three losses: choose one")
        if self.rdrop and self.chunk_size:
            raise ValueError("--rdrop compares two passes over all tokens, which --chunk-size takes apart: choose one")
        if self.own_metric != "none" and not self.max_scored:
            raise ValueError("--own-metric scores dev rows to choose the best weights: --max-scored above 0")

    @property
    def loop_options(self) -> dict[str, Any]:
        if self.own_metric == "none":
            return super().loop_options
        return super().loop_options | {"monitor": self.own_metric, "greater_is_better": True}


def quickstart() -> UniLM:
    """accelerate launch training/train_unilm.py quickstart

    A small model from scratch on embedded Chinese news and titles (synthetic): ROUGE-1 .978.
    """
    return UniLM(
        output_dir="out/unilm",
        hidden_size=128,
        num_layers=3,
        max_length=128,
        max_target_length=24,
        lr=1e-3,
        epochs=6,
        micro_batch_tokens=4096,
    )


def finetune() -> UniLM:
    """accelerate launch training/train_unilm.py finetune --model bert-base-chinese --data csl.tsv --dev dev.tsv

    Titles as bert4keras trains them (kexue.fm/archives/6933): 1e-5, about 16 rows of at most 256 tokens per step. Any
    BERT folder with its MLM head is a start.
    """
    return UniLM(
        output_dir="out/unilm-finetune",
        lr=1e-5,
        epochs=20,
        micro_batch_tokens=4096,
        schedule="constant",
        warmup=0.0,
    )


def scratch() -> UniLM:
    """accelerate launch training/train_unilm.py scratch --data titles.tsv --dev dev.tsv

    A small model on your own sources and targets, without a pretrained one.
    """
    return replace(finetune(), output_dir="out/unilm-scratch", lr=5e-4, schedule="linear", warmup=0.1)


def own_metric() -> UniLM:
    """accelerate launch training/train_unilm.py own_metric --model out/unilm

    A trained model goes on with its own score, ROUGE-L, as the goal.
    """
    return UniLM(
        output_dir="out/unilm-own-metric",
        own_metric="rouge_l",
        max_length=128,
        max_target_length=24,
        lr=1e-4,
        micro_batch_tokens=2048,
        schedule="constant",
        warmup=0.0,
    )


RECIPES = {"quickstart": quickstart, "finetune": finetune, "scratch": scratch, "own_metric": own_metric}
