"""Recipes of train_unilm.py. Each docstring holds its command and the result it gave; training/LOG.md has the runs."""

from __future__ import annotations

from dataclasses import dataclass, replace

from recipes._language_model import LanguageModelTraining


@dataclass(frozen=True, kw_only=True)
class UniLM(LanguageModelTraining):
    data: str = "embedded:titles_zh"
    """Training data with a source and a target: embedded:<name>, a file or folder (also .gz), or a Hub dataset."""
    max_length: int = 256
    """Tokens of source and target together."""
    max_target_length: int = 32
    """Tokens of the target, its [SEP] included; the rest is for the source."""
    tailr: float = 0.0
    """gamma of the TaiLr loss (arXiv 2302.13344), which stops punishing what the model finds impossible; 0 is off."""
    random_replacement: float = 0.0
    """Share of the rows in which 30 % of the target's inputs are replaced, against exposure bias; 0.5 in
    kexue.fm/archives/7259."""
    rdrop: float = 0.0
    """alpha of R-Drop (arXiv 2106.14448): two dropout passes should agree; 0 is off."""
    fgm: float = 0.0
    """Length of the adversarial step on the embeddings (kexue.fm/archives/7234); 0 is off."""
    num_beams: int = 1
    """Beams of the titles that are scored at the end, and the default of the saved model."""
    max_scored: int = 200
    """Dev rows for which targets are generated and scored at the end; 0 is none."""


def quickstart() -> UniLM:
    """accelerate launch training/train_unilm.py quickstart

    A small model from scratch on embedded Chinese news and titles (synthetic).
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


RECIPES = {"quickstart": quickstart, "finetune": finetune, "scratch": scratch}
