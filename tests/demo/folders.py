"""Saved tiny models of every kind that a demo opens."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import BertForSequenceClassification

from tests.hub.folders import make_cross_encoder, make_encoder, make_language_model
from tests.tiny import tiny_config, tiny_tokenizer


def make_classifier(folder: Path) -> None:
    torch.manual_seed(6)
    classes = {"id2label": {0: "weather", 1: "books", 2: "dogs"}, "label2id": {"weather": 0, "books": 1, "dogs": 2}}
    BertForSequenceClassification(tiny_config(**classes)).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)


def make_folders(root: Path) -> dict[str, str]:
    """{kind: folder} below `root`."""
    for kind, model in (("encoder", make_encoder()), ("cross-encoder", make_cross_encoder())):
        model.save_pretrained(root / kind, tokenizer=tiny_tokenizer())
    make_classifier(root / "classifier")
    for name, kind in (("dialogue", "chat"), ("unilm", "unilm"), ("tta", "tta"), ("mlm", "masked-lm")):
        model, tokenizer = make_language_model(name)
        if kind == "chat":  # replies of several words, however random the weights
            model.generation_config.suppress_tokens = [3]
        model.save_pretrained(root / kind)
        tokenizer.save_pretrained(root / kind)
    kinds = ("encoder", "cross-encoder", "classifier", "chat", "unilm", "tta", "masked-lm")
    return {kind: str(root / kind) for kind in kinds}
