"""Every kind of model that can be saved, in one table: what tells it, its golden questions, its own door, its card.

A kind that is missing here is refused before the training (`task_of`), not after it. `verify/`, which imports nothing
of suzoo, has the ways of opening (`WAYS`) and, in `language_models.py`, the questions by kind.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from suzoo.hub.questions import (
    ask_causal_lm,
    ask_classifier,
    ask_cross_encoder,
    ask_encoder,
    ask_masked_lm,
    ask_seq2seq,
    open_cross_encoder,
    open_encoder,
)
from suzoo.hub.verify import WAYS, Way
from suzoo.models import CoSENTCrossEncoder, CoSENTModel, TTAForMaskedLM, UniLMForCausalLM

Ask = Callable[[Any, PreTrainedTokenizerBase, Path], tuple[dict, dict]]


class Task(NamedTuple):
    """
    Attributes:
        is_one: tells a model of this kind; the first task in the table that says yes has it.
        ask: (model, tokenizer, folder) -> golden outputs and promise.
        door: the name of the door that suzoo itself opens. way: how.
        template, pipeline_tag, tags, task_type: what the card tells the Hub; the last is the task of its scores.
        citations: keys in `citations.bib` of the architecture.
    """

    is_one: Callable[[Any], bool]
    ask: Ask
    door: str
    way: Way
    template: str
    pipeline_tag: str
    tags: tuple[str, ...]
    task_type: str
    citations: tuple[str, ...] = ()


def _named(ending: str) -> Callable[[Any], bool]:
    return lambda model: isinstance(model, PreTrainedModel) and type(model).__name__.endswith(ending)


def _writes(model: Any) -> bool:
    return isinstance(model, PreTrainedModel) and model.can_generate() and not model.config.is_encoder_decoder


def _is(kind: type) -> Callable[[Any], bool]:
    return lambda model: isinstance(model, kind)


# where suzoo.models is imported, the auto classes know our models and need no flag
TASKS = {
    "sentence-embedding": Task(
        _is(CoSENTModel), ask_encoder, "CoSENTModel (suzoo)", Way(open_encoder),
        "cosent.md", "sentence-similarity", ("feature-extraction", "cosent"), "semantic-similarity",
    ),
    "cross-encoder": Task(
        _is(CoSENTCrossEncoder), ask_cross_encoder, "CoSENTCrossEncoder (suzoo)", Way(open_cross_encoder),
        "cosent.md", "text-ranking", ("cross-encoder", "cosent"), "text-ranking",
    ),
    "classifier": Task(
        _named("ForSequenceClassification"), ask_classifier,
        "AutoModelForSequenceClassification (suzoo)", WAYS["AutoModelForSequenceClassification"],
        "classifier.md", "text-classification", (), "text-classification",
    ),
    "seq2seq-lm": Task(
        _is(UniLMForCausalLM), ask_seq2seq, "AutoModelForCausalLM (suzoo)", WAYS["AutoModelForCausalLM"],
        "unilm.md", "text-generation", ("summarization", "unilm"), "summarization", ("kexue6933", "arxiv190503197"),
    ),
    "t-ta": Task(
        _is(TTAForMaskedLM), ask_masked_lm, "AutoModelForMaskedLM (suzoo)", WAYS["AutoModelForMaskedLM"],
        "tta.md", "fill-mask", ("t-ta", "sentence-similarity"), "fill-mask", ("kexue7661", "arxiv200408097"),
    ),
    "masked-lm": Task(
        _named("ForMaskedLM"), ask_masked_lm, "AutoModelForMaskedLM (suzoo)", WAYS["AutoModelForMaskedLM"],
        "mlm.md", "fill-mask", (), "fill-mask", ("arxiv181004805",),
    ),
    "causal-lm": Task(
        _writes, ask_causal_lm, "AutoModelForCausalLM (suzoo)", WAYS["AutoModelForCausalLM"],
        "dialogpt.md", "text-generation", ("conversational", "dialogpt"), "text-generation",
        ("kexue7718", "arxiv191100536"),
    ),
}  # fmt: skip


def task_of(model: Any) -> Task:
    """The task of a model.

    Raises:
        ValueError: it is of no kind that suzoo can ask, check and describe.
    """
    for task in TASKS.values():
        if task.is_one(model):
            return task
    raise ValueError(f"no golden tensors are defined for {type(model).__name__}: suzoo.hub.tasks has no such kind")


def task_named(promise: dict) -> Task:
    """The task of a saved folder, by what its golden file promises."""
    return TASKS["t-ta" if promise.get("scores") else promise["kind"]]
