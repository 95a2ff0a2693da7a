"""The ONNX graph gives what the model gives, for other batch sizes and lengths than it was traced with."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from suzoo.hub.export_onnx import export_onnx
from suzoo.models import CoSENTCrossEncoder
from tests.hub.folders import make_encoder
from tests.tiny import FAMILIES, PAIRS, SENTENCES, tiny_config, tiny_tokenizer

WITHOUT_TOKEN_TYPES = ("distilbert", "modernbert", "mpnet", "roberta", "xlm-roberta")


def tokenizer_of(family: str):
    tokenizer = copy.deepcopy(tiny_tokenizer())
    if family in WITHOUT_TOKEN_TYPES:
        tokenizer.model_input_names = ["input_ids", "attention_mask"]
    return tokenizer


def run(path, batch: dict) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, {node.name: batch[node.name] for node in session.get_inputs()})
    return answer


def assert_same_graph(family: str, folder) -> None:
    tokenizer = tokenizer_of(family)
    encoder = make_encoder("mean", family, normalize=True)
    encoder.save_pretrained(folder / "encoder", tokenizer=tokenizer)
    path = export_onnx(folder / "encoder", folder / "encoder.onnx")
    for texts in [SENTENCES, SENTENCES[3:4], SENTENCES[:2] * 9]:
        batch = tokenizer(texts, padding=True, return_tensors="np")
        assert ("token_type_ids" in batch) == (family not in WITHOUT_TOKEN_TYPES)
        np.testing.assert_allclose(run(path, batch), encoder.encode(texts, tokenizer=tokenizer), atol=1e-4)
    torch.manual_seed(5)
    cross_encoder = CoSENTCrossEncoder(tiny_config(family)).eval()
    cross_encoder.save_pretrained(folder / "cross", tokenizer=tokenizer)
    path = export_onnx(folder / "cross", folder / "cross.onnx")
    for pairs in [PAIRS, PAIRS[4:5]]:
        batch = tokenizer([a for a, _ in pairs], [b for _, b in pairs], padding=True, return_tensors="np")
        np.testing.assert_allclose(run(path, batch), cross_encoder.predict(pairs, tokenizer=tokenizer), atol=1e-4)


def test_bert_with_token_types(tmp_path):
    assert_same_graph("bert", tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cross", "cross.onnx", "encoder", "encoder.onnx"]


def test_distilbert_without_token_types(tmp_path):
    assert_same_graph("distilbert", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"bert", "distilbert"}))
def test_every_other_family(family, tmp_path):
    assert_same_graph(family, tmp_path)


@pytest.mark.parametrize("pooling", ["cls", "first-last-avg"])
def test_other_poolings(pooling, tmp_path):
    encoder, tokenizer = make_encoder(pooling), copy.deepcopy(tiny_tokenizer())
    encoder.save_pretrained(tmp_path, tokenizer=tokenizer)
    path = export_onnx(tmp_path, tmp_path / "model.onnx")
    batch = tokenizer(SENTENCES, padding=True, return_tensors="np")
    np.testing.assert_allclose(run(path, batch), encoder.encode(SENTENCES, tokenizer=tokenizer), atol=1e-4)


def test_a_folder_without_a_model_is_said(tmp_path):
    with pytest.raises(ValueError, match=r"it has no config\.json"):
        export_onnx(tmp_path, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
