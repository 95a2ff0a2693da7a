"""Tiny random models of the house backbone, with weights large enough for differences to show."""

from __future__ import annotations

import torch
from transformers import BertTokenizer

from suzoo.models import (
    DialoGPTConfig,
    DialoGPTForCausalLM,
    TTAConfig,
    TTAForMaskedLM,
    UniLMConfig,
    UniLMForCausalLM,
)

SIZES = {
    "vocab_size": 41,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "initializer_range": 0.4,
    "max_relative_position": 5,
    "eos_token_id": 2,
    "bos_token_id": 1,
}
FAMILIES = {
    "dialogpt": (DialoGPTConfig, DialoGPTForCausalLM, "causal"),
    "unilm": (UniLMConfig, UniLMForCausalLM, "prefix"),
    "tta": (TTAConfig, TTAForMaskedLM, "off-diagonal"),
}
NEVER = 10**6  # a token id that no model gives
POSITIONS = ("absolute", "nezha", "rope")


def tiny(family: str, *, double: bool = True, seed: int = 0, **options):
    """A model in eval mode. `double` for tests to 1e-10."""
    config_class, model_class, _ = FAMILIES[family]
    torch.manual_seed(seed)
    model = model_class(config_class(**{**SIZES, **options})).eval()
    # biases and LayerNorms start as constants; a test should see them, too
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model.double() if double else model


def tokens(*shape: int, seed: int = 1) -> torch.Tensor:
    """Random ids without special tokens 0 … 3."""
    return torch.randint(4, SIZES["vocab_size"], shape, generator=torch.Generator().manual_seed(seed))


def source_target(batch: int, source: int, target: int) -> torch.Tensor:
    """Token types of UniLM."""
    return torch.tensor([0] * source + [1] * target).expand(batch, -1)


def tiny_tokenizer(**options) -> BertTokenizer:
    """A Chinese BERT tokenizer for `SIZES`: 41 tokens, special ones where the configs expect them, [MASK] last."""
    characters = "今天气很好我你他是的不在有人这上大来和国去吃饭了吗呢"
    words = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", *characters, "a", "b", "##a", "##b"]
    words += [f"[unused{n}]" for n in range(SIZES["vocab_size"] - 1 - len(words))] + ["[MASK]"]
    return BertTokenizer(vocab={word: place for place, word in enumerate(words)}, do_lower_case=True, **options)
