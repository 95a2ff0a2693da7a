"""Copies of weights for the steps of decoding: the same text, never a stale weight, none where a layer is more."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch

from suzoo.models import _decoding
from tests.models.tiny import tiny, tokens

OPTIONS = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False}


@pytest.fixture
def at_once(monkeypatch):
    """Copies are made in the first step; how many products they made is counted."""
    products = []
    product = _decoding._Copy.product

    def counting(self, rows):
        products.append(self.is_packed)
        return product(self, rows)

    monkeypatch.setattr(_decoding, "PATIENCE", 0)
    monkeypatch.setattr(_decoding, "WIDE", 40)
    monkeypatch.setattr(_decoding._Copy, "product", counting)
    return products


def without_copies(model, prompt, **options):
    twin = copy.deepcopy(model)
    for module in twin.modules():
        module.register_forward_pre_hook(lambda module, inputs: None)  # a layer with a hook is called itself
    return twin.generate(prompt, **options)


@pytest.mark.parametrize("family", ["unilm", "dialogpt"])
@pytest.mark.parametrize("batch_size", [1, 3, 9])
def test_text_and_logits_are_those_without_copies(family, batch_size, at_once):
    model, prompt = tiny(family, double=False), tokens(batch_size, 9)
    options = {**OPTIONS, "return_dict_in_generate": True, "output_logits": True}
    found = model.generate(prompt, **options)
    # in every layer of all steps but the first: query, key and value in one, attention's output, feed-forward
    assert len(at_once) == (0 if batch_size > _decoding.MOST_ROWS else 11 * 3 * model.config.num_hidden_layers + 12)
    assert any(at_once) == (batch_size == 3)
    del at_once[:]
    plain = without_copies(model, prompt, **options)
    assert not at_once
    assert torch.equal(found.sequences, plain.sequences)
    torch.testing.assert_close(torch.stack(found.logits), torch.stack(plain.logits), rtol=1e-4, atol=1e-4)


def test_a_changed_weight_is_noticed_however_it_was_changed(at_once):
    model, prompt = tiny("unilm", double=False), tokens(1, 9)
    options = {**OPTIONS, "return_dict_in_generate": True, "output_logits": True}

    def check() -> None:
        found, plain = (write(prompt, **options).logits for write in (model.generate, partial(without_copies, model)))
        torch.testing.assert_close(torch.stack(found), torch.stack(plain), rtol=1e-4, atol=1e-4)

    check()
    for layer in (model.bert.encoder.layer[1].attention["self"].value, model.cls.predictions.decoder):
        layer.weight.data.mul_(1024).round_().div_(1024)  # whose sums are exact in any order
        layer.weight.data[3:6] += 5.0  # behind the counter of versions, as peft merges adapters
        check()
        layer.weight.data.copy_(layer.weight.data.roll(1, dims=1))  # columns change places: sums of rows stay
        check()
    model.cls.predictions.decoder.bias.data[7] += 100.0
    assert (model.generate(prompt, **OPTIONS)[:, 9:] == 7).all()


def test_training_frees_them_and_a_model_takes_them_along(at_once):
    model = tiny("dialogpt", double=False)
    model.generate(tokens(1, 9), **OPTIONS)
    assert model in _decoding._KEPT
    model.train()
    assert model not in _decoding._KEPT
    num_kept = len(_decoding._KEPT)
    model.eval().generate(tokens(1, 9), **OPTIONS)
    del model
    assert len(_decoding._KEPT) == num_kept


def test_short_replies_make_none(monkeypatch):
    made = []
    monkeypatch.setattr(_decoding, "_copy_of", lambda layers, is_packed: made.append(layers))
    tiny("unilm", double=False).generate(tokens(1, 9), **OPTIONS)
    assert not made


def test_copies_take_no_more_memory_than_they_may(at_once, monkeypatch):
    model, prompt = tiny("unilm", double=False), tokens(1, 9)
    most = 4 * 4 * 32 * 32  # the head, and the smaller ones of a layer
    monkeypatch.setattr(_decoding, "MOST_BYTES", most)
    assert torch.equal(model.generate(prompt, **OPTIONS), without_copies(model, prompt, **OPTIONS))
    (kept,) = [weights for owner, weights in _decoding._KEPT.items() if owner is model]
    assert most / 2 < sum(one.weight.nbytes for one in kept._copies.values()) <= most


def test_adapters_and_other_types_are_called_themselves(at_once):
    from peft import LoraConfig, get_peft_model

    model, prompt = tiny("unilm", double=False), tokens(1, 9)
    get_peft_model(model, LoraConfig(target_modules=["query", "decoder"], init_lora_weights=False)).eval()
    assert torch.equal(model.generate(prompt, **OPTIONS), without_copies(model, prompt, **OPTIONS))
    assert len(at_once) == 11 * 2 * model.config.num_hidden_layers  # attention's output and feed-forward
    del at_once[:]
    tiny("unilm").generate(prompt, **OPTIONS)  # in float64
    assert not at_once
