"""Tiny random models and tokenizers: what most tests run on."""

from __future__ import annotations

import functools

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoConfig, PreTrainedTokenizerFast

SENTENCES = [
    "a man is playing a flute",
    "a man plays the flute on a stage while two women and a dog listen to him in the rain",
    "今天天气很好，我们去公园散步吧",
    "x",
    "the dog does not sleep",
    "他买了三本书",
    "a man is playing a flute",
    "nobody sleeps",
]
PAIRS = [(SENTENCES[i], SENTENCES[j]) for i, j in [(0, 1), (0, 6), (2, 5), (3, 4), (4, 7), (1, 2)]]
LABELS = [3.0, 5.0, 1.0, 0.0, 2.0, 0.0]

SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
# what each family names otherwise, or needs besides
FAMILIES = {
    "bert": {},
    "roberta": {"type_vocab_size": 2},
    "xlm-roberta": {"type_vocab_size": 2},
    "distilbert": {"dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 64},
    "electra": {"embedding_size": 16},
    "mpnet": {},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 16},
    "modernbert": {"local_attention": 8, "global_attn_every_n_layers": 2},
}


@functools.cache
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Characters and the words of `SENTENCES`; ids 0-4 are [PAD] [UNK] [CLS] [SEP] [MASK]; has token types."""
    words = {word for sentence in SENTENCES for word in sentence.split()} | set("".join(SENTENCES)) - {" "}
    vocab = {token: i for i, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(words)])}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        model_max_length=64,
    )


def tiny_config(family: str = "bert", **overrides):
    options = {} if family == "distilbert" else dict(SMALL)
    positions = {"max_position_embeddings": 72, "vocab_size": len(tiny_tokenizer()), "pad_token_id": 0}
    return AutoConfig.for_model(family, **{**options, **positions, **FAMILIES[family], **overrides})


def flatten(ids: list[list[int]]) -> tuple[torch.Tensor, list[int]]:
    """Sentences end to end, and their lengths."""
    return torch.tensor([token for row in ids for token in row]), [len(row) for row in ids]
