"""The flags that the scripts of DialoGPT, UniLM and T-TA share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from recipes.base import Training
from recipes.settings import Setting

RULES = ("self_terminating=monotonic", "self_terminating=non_monotonic")


@dataclass(frozen=True, kw_only=True)
class LanguageModelTraining(Training):
    group = "training"

    micro_batch_tokens: Annotated[int, Setting(least=1)] = 2048
    """Size of a micro-batch on one process: examples times the longest of them; under 5 % of it is padding."""
    positions: Annotated[Literal["absolute", "nezha", "rope"], Setting(part_of=("model=None",))] = "absolute"
    """Of the model from scratch."""
    label_smoothing: Annotated[float, Setting(least=0, most=1, off=0)] = 0.0
    """Share of the target that is spread over the vocabulary; dev losses are without it."""
    chunk_size: Annotated[int, Setting(least=0, off=0)] = 0
    """Labelled tokens whose logits exist at once, for large vocabularies; the head then computes twice. 0 is all."""

    @property
    def loop_options(self) -> dict[str, Any]:
        """With the weights of the lowest dev loss as the best ones."""
        return super().loop_options | {"monitor": "loss", "greater_is_better": False}


@dataclass(frozen=True, kw_only=True)
class CausalTraining(LanguageModelTraining):
    self_terminating: Literal["off", "monotonic", "non_monotonic"] | None = None
    """Give the end of a text a probability that goes to one (kexue.fm/archives/7500), in training and in the saved
    model's generate(). Default: as --model was, else off."""
    epsilon: Annotated[float, Setting(above=0, most=1, part_of=RULES)] = 1e-3
    """self_terminating: greedy search ends within ln 2 / epsilon tokens."""
