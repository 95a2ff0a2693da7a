"""A tiny random BERT classifier and a batch with padding and repeated tokens."""

from __future__ import annotations

import torch
from transformers import BertConfig, BertForSequenceClassification


def classifier(dropout: float = 0.0, **options) -> BertForSequenceClassification:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=20,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=16,
        num_labels=3,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        initializer_range=0.3,
        **options,
    )
    return BertForSequenceClassification(config).double().train()


def batch() -> dict[str, torch.Tensor]:
    input_ids = torch.tensor([[2, 7, 7, 9, 3], [2, 5, 3, 0, 0], [2, 9, 11, 3, 0], [2, 4, 4, 4, 3]])
    return {"input_ids": input_ids, "attention_mask": (input_ids != 0).long(), "labels": torch.tensor([0, 2, 1, 1])}
