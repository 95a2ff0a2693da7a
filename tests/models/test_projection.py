"""A linear layer behind the pooling: as sentence-transformers' Dense, read and written, else refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers import models as st

from suzoo.hub import verify as v
from suzoo.hub.golden import check_with_suzoo, write_golden
from suzoo.models import CoSENTModel
from suzoo.models._projection import Projection
from tests.hub.folders import make_encoder
from tests.tiny import SENTENCES, flatten, tiny_tokenizer


def projected(**options) -> CoSENTModel:
    torch.manual_seed(6)
    return make_encoder("cls", projection=Projection(32, 12, tanh=options.pop("tanh", False)), **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Read only: copy it to change it."""
    path = tmp_path_factory.mktemp("projection") / "model"
    projected().save_pretrained(path, tokenizer=tiny_tokenizer())
    return path


@pytest.mark.parametrize("options", [{}, {"tanh": True, "normalize": True}])
def test_both_libraries_give_the_same_vectors(options, tmp_path):
    model = projected(**options)
    model.save_pretrained(tmp_path, tokenizer=tiny_tokenizer())
    expected = model.encode(SENTENCES, tokenizer=tiny_tokenizer())
    assert expected.shape == (len(SENTENCES), 12) and model.embedding_size == 12
    np.testing.assert_allclose(SentenceTransformer(str(tmp_path), device="cpu").encode(SENTENCES), expected, atol=1e-5)
    again = CoSENTModel.from_pretrained(tmp_path)
    np.testing.assert_allclose(again.encode(SENTENCES), expected, atol=1e-6)
    assert again.encode([]).shape == (0, 12)
    pooled = model.encoder(**tiny_tokenizer()(SENTENCES[1], return_tensors="pt")).last_hidden_state[:, 0]
    by_hand = pooled @ model.projection.linear.weight.T + model.projection.linear.bias
    by_hand = torch.nn.functional.normalize(by_hand.tanh(), dim=-1) if options else by_hand
    np.testing.assert_allclose(by_hand[0].detach(), expected[1], atol=1e-5)


def test_what_sentence_transformers_wrote_opens(folder, tmp_path):
    SentenceTransformer(str(folder), device="cpu").save_pretrained(str(tmp_path / "again"))
    expected = CoSENTModel.from_pretrained(folder).encode(SENTENCES)
    np.testing.assert_allclose(CoSENTModel.from_pretrained(tmp_path / "again").encode(SENTENCES), expected, atol=1e-6)
    dense = st.Dense(32, 7, activation_function=torch.nn.Tanh(), bias=False)
    parts = [st.Transformer(str(folder)), st.Pooling(32, "mean"), dense, st.Normalize()]
    other = SentenceTransformer(modules=parts, device="cpu")
    other.save_pretrained(str(tmp_path / "other"))
    ours = CoSENTModel.from_pretrained(tmp_path / "other")
    np.testing.assert_allclose(ours.encode(SENTENCES), other.encode(SENTENCES), atol=1e-5)


def test_flat_and_padded_input_and_the_gradient(folder):
    model = CoSENTModel.from_pretrained(folder)
    ids = [tiny_tokenizer()(text)["input_ids"] for text in SENTENCES]
    flat_ids, lengths = flatten(ids)
    flat = model(flat_ids, lengths=lengths).sentence_embedding
    padded = model(**tiny_tokenizer()(SENTENCES, padding=True, return_tensors="pt")).sentence_embedding
    torch.testing.assert_close(flat, padded, atol=1e-5, rtol=0)
    flat.square().sum().backward()
    assert model.projection.linear.weight.grad.abs().max() > 0 and flat.shape == (len(SENTENCES), 12)


def test_weights_that_are_given_are_written(folder, tmp_path):
    model = CoSENTModel.from_pretrained(folder)
    state = {name: value * 2 if "projection" in name else value for name, value in model.state_dict().items()}
    model.save_pretrained(tmp_path, state_dict=state, tokenizer=tiny_tokenizer())
    found = CoSENTModel.from_pretrained(tmp_path).encode(SENTENCES)
    np.testing.assert_allclose(found, 2 * model.encode(SENTENCES), atol=4e-6)
    assert not any("projection" in name for name in load_file(tmp_path / "model.safetensors"))


def test_a_model_without_it_leaves_none_behind(folder, tmp_path):
    copy = Path(shutil.copytree(folder, tmp_path / "model"))
    make_encoder("cls", normalize=True).save_pretrained(copy, tokenizer=tiny_tokenizer())
    assert not (copy / "2_Dense").exists() and CoSENTModel.from_pretrained(copy).projection is None


def test_half_precision_gives_float32_vectors(folder):
    half = CoSENTModel.from_pretrained(folder, dtype=torch.bfloat16)
    assert half.projection.linear.weight.dtype == torch.bfloat16
    vectors, expected = half.encode(SENTENCES), CoSENTModel.from_pretrained(folder).encode(SENTENCES)
    assert vectors.dtype == np.float32 and np.abs(vectors - expected).max() < 0.1 * np.abs(expected).max()


def test_it_verifies(folder, tmp_path):
    copy = Path(shutil.copytree(folder, tmp_path / "model"))
    write_golden(CoSENTModel.from_pretrained(copy), tiny_tokenizer(), copy)
    names = v.read_promise(copy)["doors"]
    assert names == ["files", "AutoTokenizer", "SentenceTransformer", "saved by SentenceTransformer"]
    doors = [*(v.check_promised_door(name, copy) for name in names), check_with_suzoo(copy)]
    assert [door.status for door in doors] == ["ok"] * 5, v.format_table(doors)
    shutil.rmtree(copy / "2_Dense")
    assert "names 2_Dense/config.json, which is missing" in v.check_promised_door("files", copy).note


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"activation_function": "torch.nn.modules.activation.ReLU"}, "suzoo has Identity and Tanh"),
        ({"use_residual": True}, "sets use_residual to True"),
        ({"in_features": 16}, "takes 16 numbers, the encoder gives 32"),
        ({"out_features": 16}, "does not hold the weights of its config.json"),
        ({"module_input_name": "token_embeddings"}, "sets module_input_name to 'token_embeddings'"),
    ],
)
def test_another_dense_is_refused(changes, sentence, folder, tmp_path):
    copy = Path(shutil.copytree(folder, tmp_path / "model"))
    path = copy / "2_Dense/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ValueError, match=sentence):
        CoSENTModel.from_pretrained(copy)


def test_what_cannot_be_honoured_is_refused(folder, tmp_path):
    copy = Path(shutil.copytree(folder, tmp_path / "model"))
    weights = copy / "2_Dense/model.safetensors"
    torch.save(load_file(weights), copy / "2_Dense/pytorch_model.bin")
    weights.unlink()
    with pytest.raises(ValueError, match="suzoo reads no pickle"):
        CoSENTModel.from_pretrained(copy)
    save_file({"linear.weight": torch.zeros(3, 3)}, weights)
    with pytest.raises(ValueError, match="does not hold the weights"):
        CoSENTModel.from_pretrained(copy)
    modules = json.loads((copy / "modules.json").read_text())
    for order, sentence in [((0, 2, 1), "has the order Transformer, Dense, Pooling"), ((0, 1, 2, 2), "names 2 Dense")]:
        (copy / "modules.json").write_text(json.dumps([modules[i] for i in order]))
        with pytest.raises(ValueError, match=sentence):
            CoSENTModel.from_pretrained(copy)
    with pytest.raises(ValueError, match="a projection could stand behind"):
        make_encoder("first-last-avg", projection=Projection(32, 12))
