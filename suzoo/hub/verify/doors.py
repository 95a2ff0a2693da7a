"""Every way of opening a saved model, by the name a user would write."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from .encoders import (
    open_auto_model,
    open_classification_pipeline,
    open_cross_encoder,
    open_remote_cross_encoder,
    open_remote_encoder,
    open_sentence_transformer,
    open_sequence_classification,
)
from .files import open_files
from .language_models import (
    open_bert_for_masked_lm,
    open_fill_mask_pipeline,
    open_language_model,
    open_text_generation_pipeline,
)
from .tokenizers import open_tokenizer


class Way(NamedTuple):
    """How to open a door.

    Attributes:
        open: takes the folder and the promise, returns {tensor name: array}.
        needs: "library" or "library>=version", beyond any transformers.
        gives: the golden tensors it must give at least; None is all there are.
    """

    open: Callable[[str, dict], dict]
    needs: str | None = None
    gives: tuple[str, ...] | None = None


# older versions would register our class over the stock one of the same config, and refuse to
STOCK_CONFIG_REMOTE_CODE = "transformers>=5.19"
CAUSAL_LM = partial(open_language_model, auto_class="AutoModelForCausalLM")
MASKED_LM = partial(open_language_model, auto_class="AutoModelForMaskedLM")
WAYS = {  # names as a user would write them
    "files": Way(open_files, gives=()),
    "AutoTokenizer": Way(open_tokenizer, gives=()),
    "AutoTokenizer, trust_remote_code": Way(partial(open_tokenizer, trust=True), gives=()),
    "SentenceTransformer": Way(open_sentence_transformer, "sentence-transformers"),
    "SentenceTransformer, trust_remote_code": Way(
        partial(open_sentence_transformer, trust=True), "sentence-transformers"
    ),
    "AutoModel": Way(open_auto_model),
    "AutoModel, trust_remote_code": Way(open_remote_encoder, STOCK_CONFIG_REMOTE_CODE),
    "CrossEncoder": Way(open_cross_encoder, "sentence-transformers"),
    "AutoModelForSequenceClassification": Way(open_sequence_classification),
    "text-classification pipeline": Way(open_classification_pipeline, gives=("output",)),
    "AutoModelForSequenceClassification, trust_remote_code": Way(open_remote_cross_encoder, STOCK_CONFIG_REMOTE_CODE),
    "AutoModelForCausalLM": Way(CAUSAL_LM, gives=("logits", "generated")),
    "AutoModelForCausalLM, trust_remote_code": Way(partial(CAUSAL_LM, trust=True), gives=("logits", "generated")),
    "text-generation pipeline": Way(open_text_generation_pipeline, gives=()),
    "text-generation pipeline, trust_remote_code": Way(partial(open_text_generation_pipeline, trust=True), gives=()),
    "BertForMaskedLM": Way(open_bert_for_masked_lm, gives=("source_logits",)),
    "AutoModelForMaskedLM": Way(MASKED_LM, gives=("logits",)),
    "AutoModelForMaskedLM, trust_remote_code": Way(partial(MASKED_LM, trust=True), gives=("logits",)),
    "fill-mask pipeline": Way(open_fill_mask_pipeline, gives=("fill_mask",)),
    "fill-mask pipeline, trust_remote_code": Way(partial(open_fill_mask_pipeline, trust=True), gives=("fill_mask",)),
}


def unmet(requirement: str) -> str:
    """What to do for "library" or "library>=version", "" when it is there."""
    from packaging.version import Version

    library, _, oldest = requirement.partition(">=")
    if importlib.util.find_spec(library.replace("-", "_")) is None:
        return f"install {library}"
    if oldest and Version(importlib.metadata.version(library)) < Version(oldest):
        return f"needs {library} {oldest} or later"
    return ""
