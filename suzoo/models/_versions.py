"""What differs between the versions of transformers that we run on, and which arguments a forward knows.

transformers 5.24 renamed `past_key_values` to `cache`, as an argument and as a field of outputs. Every model of ours
takes both names; towards transformers we use the one it uses.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields
from inspect import signature
from typing import Any

import transformers
from transformers import Cache, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast

# the name of the cache in transformers' arguments and outputs
CACHE = "cache" if "cache" in {field.name for field in fields(BaseModelOutputWithPast)} else "past_key_values"

# Before 5.9 causal masks know no blocks of tokens that see each other; before 5.17 sdpa and flex attention add nothing
# to the scores: they would leave a bias out silently
MASKS_TAKE_BLOCKS = "block_sequence_ids" in signature(create_causal_mask).parameters
SCORES_TAKE_BIAS = "position_bias" in signature(sdpa_attention_forward).parameters

# From 5.4 on and before 5.17 the configuration of ModernBERT refuses layers of one kind when it is read
MODERNBERT_OF_ONE_KIND = tuple(map(int, transformers.__version__.split(".")[:2])) >= (5, 17)
# Older ones load an adapter and fail when they are asked what they loaded
ADAPTERS_SAY_WHAT_THEY_LOAD = signature(PreTrainedModel.load_adapter).return_annotation is not None

# What transformers, its Trainer and its data collators pass to any model. The loss uses the number of items, attention
# functions the lengths of packed rows; `seq_idx` says again what `position_ids` say. The Trainer switches the cache off
# also where there is none.
COMMON_KEYWORDS = frozenset(
    {"num_items_in_batch", "output_attentions", "output_hidden_states", "use_cache"}
    | {"cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "seq_idx"}
)
# What `save_pretrained` takes, and what it hands on to `push_to_hub`
SAVE_KEYWORDS = frozenset(
    signature(PreTrainedModel.save_pretrained).parameters.keys()
    | signature(PreTrainedModel.push_to_hub).parameters.keys()
)


def refuse_unknown(who: str, kwargs: Collection[str], known: Collection[str] = COMMON_KEYWORDS) -> None:
    """An argument that nobody reads is an error, as in a function without `**kwargs`: a typo, or a renamed one.

    Raises:
        TypeError: `kwargs` has names that are not in `known`.
    """
    unknown = sorted(set(kwargs) - set(known))
    if unknown:
        raise TypeError(f"{who} got arguments that it does not know: {', '.join(unknown)}")


def one_cache(cache: Cache | None, past_key_values: Cache | None) -> Cache | None:
    """The cache, under whichever of its two names it came.

    Raises:
        ValueError: it came under both.
    """
    if cache is not None and past_key_values is not None:
        raise ValueError("give the cache once, as cache or as past_key_values")
    return past_key_values if cache is None else cache


def cache_field(cache: Cache | None) -> dict[str, Any]:
    """The cache as a keyword of transformers' functions and outputs."""
    return {CACHE: cache}


def take_cache(kwargs: dict[str, Any]) -> Cache | None:
    """The cache of `kwargs`, where it afterwards is under the name that transformers knows."""
    cache = one_cache(kwargs.pop("cache", None), kwargs.pop("past_key_values", None))
    if cache is not None:
        kwargs |= cache_field(cache)
    return cache
