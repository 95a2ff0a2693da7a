"""The GRU encoder: its states against the formulas, and as `CoSENTModel` pools, saves and opens it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers import AutoModel

from suzoo.hub import verify
from suzoo.hub.card import write_card
from suzoo.hub.golden import check_with_suzoo, write_golden
from suzoo.models import CoSENTModel, GRUEncoderConfig, GRUEncoderModel
from tests.hub.folders import METRICS, RUN
from tests.reference.gru import encoder_states
from tests.tiny import SENTENCES, flatten, tiny_config, tiny_tokenizer

SHAPES = {"gru": {}, "two of both directions": {"num_hidden_layers": 2, "bidirectional": True}}


def tiny_gru(**options) -> GRUEncoderModel:
    torch.manual_seed(1)
    sizes = {"vocab_size": len(tiny_tokenizer()), "embedding_size": 16, "hidden_size": 12, "initializer_range": 1.0}
    return GRUEncoderModel(GRUEncoderConfig(**(sizes | options))).eval()


def encoder_of(pooling: str = "last", **options) -> CoSENTModel:
    gru = tiny_gru(**options)
    model = CoSENTModel(gru.config, gru, pooling=pooling).eval()
    model.tokenizer = tiny_tokenizer()
    return model


@pytest.mark.parametrize("shape", SHAPES)
def test_states_and_gradients_are_those_of_the_formulas(shape):
    model = tiny_gru(**SHAPES[shape]).double()
    ids = torch.tensor([[5, 6, 7, 8, 9], [9, 8, 7, 6, 5]])
    cotangent = torch.randn(2, 5, 12, dtype=torch.double)
    results = []
    for states in (model(ids).last_hidden_state, torch.stack([encoder_states(model, row) for row in ids])):
        model.zero_grad()
        (states * cotangent).sum().backward()
        results.append((states, {name: p.grad.clone() for name, p in model.named_parameters()}))
    (states, gradients), (expected, expected_gradients) = results
    torch.testing.assert_close(states, expected, rtol=0, atol=1e-12)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected_gradients[name], rtol=0, atol=1e-10, msg=name)
        assert gradient.any()


@pytest.mark.parametrize("shape", SHAPES)
def test_padding_changes_nothing_wherever_it_stands(shape):
    model = tiny_gru(**SHAPES[shape]).double()
    ids = torch.tensor([[5, 6, 7]])
    alone = model(ids).last_hidden_state[0]
    masks = torch.tensor([[1, 1, 1, 0, 0], [0, 0, 1, 1, 1], [0, 1, 0, 1, 1], [0, 0, 0, 0, 0]])
    padded = torch.full((4, 5), 3)
    padded[masks.bool()] = torch.cat([ids[0]] * 3)
    states = model(padded, masks, token_type_ids=torch.ones_like(padded), output_hidden_states=True).hidden_states
    assert len(states) == 1 + model.config.num_hidden_layers
    for row, mask in zip(states[-1][:3], masks, strict=False):
        torch.testing.assert_close(row[mask.bool()], alone, rtol=0, atol=1e-12)
        assert not row[~mask.bool()].any()
    assert not states[-1][3].any()
    embeds = model.word_embeddings(ids)
    torch.testing.assert_close(model(inputs_embeds=embeds).last_hidden_state[0], alone, rtol=0, atol=0)


def test_the_start_is_keras_one_per_gate():
    gru = tiny_gru().layers[0][0]
    for gate in gru.weight_hh_l0.chunk(3):
        torch.testing.assert_close(gate @ gate.T, torch.eye(12), rtol=0, atol=1e-5)
    bound = (6 / (16 + 12)) ** 0.5
    assert 0.9 * bound < gru.weight_ih_l0.abs().max() <= bound
    assert not gru.bias_ih_l0.any() and not gru.bias_hh_l0.any()


def test_wrong_sizes_and_arguments_are_one_sentence():
    with pytest.raises(ValueError, match="hidden_size 13 is odd"):
        GRUEncoderConfig(hidden_size=13, bidirectional=True)
    with pytest.raises(ValueError, match="num_hidden_layers must be positive, not 0"):
        GRUEncoderConfig(num_hidden_layers=0)
    with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
        tiny_gru()()
    with pytest.raises(TypeError, match="does not know: position_ids"):
        tiny_gru()(torch.tensor([[5]]), position_ids=torch.tensor([[0]]))


@pytest.mark.parametrize("pooling", ["last", "mean", "cls", "first-last-avg"])
def test_the_sentence_encoder_is_one_text_at_a_time(pooling):
    model = encoder_of(pooling, num_hidden_layers=2)
    vectors = []
    for text in SENTENCES:
        states = model.encoder(**tiny_tokenizer()(text, return_tensors="pt"), output_hidden_states=True).hidden_states
        last = states[-1][0].detach()
        first_last = ((states[1] + states[-1])[0] / 2).mean(0).detach()
        vectors.append({"last": last[-1], "mean": last.mean(0), "cls": last[0], "first-last-avg": first_last}[pooling])
    expected = torch.stack(vectors)
    np.testing.assert_allclose(model.encode(SENTENCES), expected, atol=1e-6)
    flat, lengths = flatten(tiny_tokenizer()(SENTENCES)["input_ids"])
    torch.testing.assert_close(model(flat, lengths=lengths).sentence_embedding, expected, rtol=0, atol=1e-6)
    for side in ("left", "right"):
        batch = tiny_tokenizer().pad(
            {"input_ids": tiny_tokenizer()(SENTENCES)["input_ids"]}, return_tensors="pt", padding_side=side
        )
        torch.testing.assert_close(model(**batch).sentence_embedding, expected, rtol=0, atol=1e-6)


def test_bf16_is_near():
    model = encoder_of()
    expected = model.encode(SENTENCES)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert np.abs(model.encode(SENTENCES) - expected).max() < 0.05
    vectors = model.bfloat16().encode(SENTENCES)
    assert vectors.dtype == np.float32 and np.abs(vectors - expected).max() < 0.05


def test_the_folder_opens_everywhere_and_its_card_says_how(tmp_path):
    model = encoder_of()
    model.save_pretrained(tmp_path)
    write_golden(model, tiny_tokenizer(), tmp_path)
    doors = verify.verify(tmp_path)
    classes = ("SentenceTransformer", "AutoModel")
    names = ["AutoTokenizer", *classes, *(f"saved by {name}" for name in classes)]
    assert [door.name for door in doors] == ["files", *(f"{name}, trust_remote_code" for name in names)]
    assert verify.passed([*doors, check_with_suzoo(tmp_path)]), verify.format_table(doors)
    assert type(AutoModel.from_pretrained(tmp_path)) is GRUEncoderModel
    assert CoSENTModel.from_pretrained(tmp_path).pooling == "last"

    (tmp_path / "run.json").write_text(json.dumps(RUN))
    (tmp_path / "metrics.json").write_text(json.dumps(METRICS))
    card = write_card(tmp_path).read_text(encoding="utf-8")
    assert 'SentenceTransformer("OWNER/MODEL", trust_remote_code=True)' in card
    assert 'inputs["attention_mask"].sum(1) - 1' in card

    with pytest.raises(ValueError, match="the encoder's own code"):
        model.save_pretrained(tmp_path, with_code=True)
    stock = CoSENTModel(tiny_config())
    stock.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.py")) and "auto_map" not in json.loads((tmp_path / "config.json").read_text())
