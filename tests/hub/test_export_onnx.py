"""The ONNX graph gives what the model gives, for other batch sizes and lengths than it was traced with."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from suzoo.hub.export_onnx import export_onnx
from tests.hub.folders import make_cross_encoder, make_encoder
from tests.tiny import FAMILIES, PAIRS, SENTENCES, tiny_tokenizer

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


def assert_same_encoder(family: str, folder, **options) -> None:
    encoder, tokenizer = make_encoder(family=family, **options), tokenizer_of(family)
    encoder.save_pretrained(folder / "encoder", tokenizer=tokenizer)
    path = export_onnx(folder / "encoder", folder / "encoder.onnx")
    for texts in [SENTENCES, SENTENCES[3:4], SENTENCES[:2] * 9]:
        batch = tokenizer(texts, padding=True, return_tensors="np")
        assert ("token_type_ids" in batch) == (family not in WITHOUT_TOKEN_TYPES)
        np.testing.assert_allclose(run(path, batch), encoder.encode(texts, tokenizer=tokenizer), atol=1e-4)


def assert_same_cross_encoder(family: str, folder) -> None:
    cross_encoder, tokenizer = make_cross_encoder(family), tokenizer_of(family)
    cross_encoder.save_pretrained(folder / "cross", tokenizer=tokenizer)
    path = export_onnx(folder / "cross", folder / "cross.onnx")
    for pairs in [PAIRS, PAIRS[4:5]]:
        batch = tokenizer([a for a, _ in pairs], [b for _, b in pairs], padding=True, return_tensors="np")
        np.testing.assert_allclose(run(path, batch), cross_encoder.predict(pairs, tokenizer=tokenizer), atol=1e-4)


def test_encoder_without_token_types(tmp_path):
    assert_same_encoder("distilbert", tmp_path, pooling="mean", normalize=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["encoder", "encoder.onnx"]


def test_cross_encoder_with_token_types(tmp_path):
    """An encoder with token types is exported by the blocks of docs/guides/onnx.md."""
    assert_same_cross_encoder("bert", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family, tmp_path):
    assert_same_encoder(family, tmp_path, pooling="first-last-avg")
    assert_same_cross_encoder(family, tmp_path)


def test_a_folder_without_a_model_is_said(tmp_path):
    with pytest.raises(ValueError, match=r"it has no config\.json"):
        export_onnx(tmp_path, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
