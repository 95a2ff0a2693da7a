"""Recipes of train_dialogpt.py. Each docstring holds its command and result; training/LOG.md has the runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from recipes.language_model import CausalTraining
from recipes.settings import Setting


@dataclass(frozen=True, kw_only=True)
class DialoGPT(CausalTraining):
    group = "task"

    data: tuple[str, ...] = ("embedded:dialogues_zh",)
    """Training dialogues, lists of turns or messages: embedded:<name>, a file or folder (also .gz), a Hub dataset."""
    model: str | None = None
    """Folder or Hub name to start from: any BERT with its MLM head, or a causal LM (GPT-2, Qwen, …); else scratch."""
    max_length: Annotated[int, Setting(least=1)] = 128
    """Tokens of a dialogue; of longer ones the newest whole turns stay."""
    layout: Literal["blog", "cdial", "dialogpt"] | None = None
    """blog: speakers in the token types (kexue.fm/archives/7718), needs remote code. cdial: speaker tokens in the text.
    dialogpt: no speakers. Default: what the model was trained with, else cdial, which opens as a stock BERT (dialogpt
    where the tokenizer has no [CLS])."""
    learn: Literal["all", "replies", "last"] | None = None
    """Turns with labels; default is what the layout's authors do: all, last and replies."""
    reverse: bool = False
    """Train on reversed dialogues: the backward model of suzoo.decoding.mmi_rerank."""
    max_new_tokens: Annotated[int, Setting(least=1)] = 32
    """Longest reply."""
    max_scored: Annotated[int, Setting(least=0, resume=True)] = 200
    """Dev dialogues whose last turn is generated and scored at the end; 0 is none."""

    def limits(self, texts: Sequence[str], lengths: Sequence[int]) -> list[tuple[str, int, int]]:
        return [(" | ".join(texts), sum(lengths) + len(lengths), self.max_length)]


def quickstart() -> DialoGPT:
    """accelerate launch training/train_dialogpt.py quickstart

    A small model from scratch on embedded Chinese dialogues (synthetic), whose last answer needs an earlier turn: the
    turn that is learnt. It begins to look back: exact last answers .44 with the history, .10 without; see `history`.
    """
    return DialoGPT(
        output_dir="out/dialogpt",
        hidden_size=128,
        num_layers=2,
        init_std=0.09,
        positions="rope",
        dropout=0.0,
        max_length=224,
        learn="last",
        lr=2e-3,
        epochs=5.36,
        micro_batch_tokens=2048,
    )


def history() -> DialoGPT:
    """accelerate launch training/train_dialogpt.py history

    All turns of the same dialogues, until it looks back, after some 5,000 steps (half an hour on one core): exact last
    answers .775 with the history, .165 without. Whole dialogues, and positions relative to each other.
    """
    return DialoGPT(
        output_dir="out/dialogpt-history",
        hidden_size=128,
        num_layers=3,
        positions="rope",
        max_length=224,
        learn="all",
        lr=2e-3,
        epochs=40,
        micro_batch_tokens=2048,
    )


def blog() -> DialoGPT:
    """accelerate launch training/train_dialogpt.py blog --model out/nezha --data dialogues.jsonl

    The article's setting (kexue.fm/archives/7718): 2e-5 without warm-up, 256 dialogues of at most 128 tokens per step.
    """
    return DialoGPT(
        output_dir="out/dialogpt-blog",
        layout="blog",
        lr=2e-5,
        schedule="constant",
        warmup=0.0,
        micro_batch_tokens=2048,
        micro_batches=16,
    )


def scratch() -> DialoGPT:
    """accelerate launch training/train_dialogpt.py scratch --data dialogues.jsonl --dev dev.jsonl

    A small model on your own dialogues, without a pretrained one.
    """
    return DialoGPT(
        output_dir="out/dialogpt-scratch",
        hidden_size=256,
        num_layers=4,
        learn="all",
        lr=5e-4,
        epochs=8,
        micro_batch_tokens=2048,
    )


RECIPES = {"quickstart": quickstart, "history": history, "blog": blog, "scratch": scratch}
