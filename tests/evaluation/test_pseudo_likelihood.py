"""Pseudo-log-likelihood of a masked language model."""

from __future__ import annotations

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

from suzoo.evaluation import masked_log_likelihoods
from tests.reference.pseudo_likelihood import pseudo_log_likelihood

MASK = 4


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=30,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
        initializer_range=0.5,
    )
    return BertForMaskedLM(config).eval()


def batch(*texts: list[int]):
    length = max(map(len, texts))
    ids = torch.tensor([text + [0] * (length - len(text)) for text in texts])
    return {"input_ids": ids, "attention_mask": (ids > 0).long()}, ids > 4


TEXTS = [2, 7, 9, 9, 28, 3], [2, 11, 3], [2, 3]  # the last has nothing to score


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_log_likelihoods_equal_one_masked_forward_per_token(model, batch_size):
    inputs, scored = batch(*TEXTS)
    before = inputs["input_ids"].clone()
    values = masked_log_likelihoods(model, inputs, scored, mask_token_id=MASK, batch_size=batch_size)
    for row, text in enumerate(TEXTS):
        positions = [i for i, token in enumerate(text) if token > 4]
        expected = pseudo_log_likelihood(model, text, positions, MASK)
        assert values[row].sum().item() == pytest.approx(expected, abs=1e-5)
    assert values.dtype == torch.float32 and not values.requires_grad
    assert torch.equal(values != 0, scored) and torch.equal(inputs["input_ids"], before)


def test_texts_without_tokens_have_likelihood_one(model):
    inputs, scored = batch([2, 3], [2, 3])
    assert torch.equal(masked_log_likelihoods(model, inputs, scored, mask_token_id=MASK), torch.zeros(2, 2))


def test_a_token_does_not_see_itself(model):
    """Exchanging a token changes its probability to that of the other one: all candidates together have 1."""
    total = 0.0
    for token in range(5, 30):
        inputs, _ = batch([2, 7, token, 9, 3])
        scored = torch.tensor([[False, False, True, False, False]])
        total += masked_log_likelihoods(model, inputs, scored, mask_token_id=MASK).sum().exp().item()
    inputs["input_ids"][0, 2] = MASK
    probabilities = model(**inputs).logits[0, 2].softmax(-1)
    assert total == pytest.approx(probabilities[5:].sum().item(), abs=1e-5)


def test_bfloat16_weights_give_float32_likelihoods(model):
    inputs, scored = batch(*TEXTS)
    exact = masked_log_likelihoods(model, inputs, scored, mask_token_id=MASK)
    half = BertForMaskedLM(model.config)
    half.load_state_dict(model.state_dict())
    values = masked_log_likelihoods(half.bfloat16().eval(), inputs, scored, mask_token_id=MASK)
    assert values.dtype == torch.float32
    assert torch.allclose(values, exact, atol=0.3)


def test_what_would_be_silently_wrong_is_refused(model):
    inputs, scored = batch(*TEXTS)
    with pytest.raises(ValueError, match=r"like input_ids, not torch\.int64"):
        masked_log_likelihoods(model, inputs, scored.long(), mask_token_id=MASK)
    with pytest.raises(ValueError, match=r"must be bool \(3, 6\)"):
        masked_log_likelihoods(model, inputs, scored[:, 1:], mask_token_id=MASK)
    with pytest.raises(ValueError, match="batch_size"):
        masked_log_likelihoods(model, inputs, scored, mask_token_id=MASK, batch_size=0)
    with pytest.raises(ValueError, match="mask_token_id 30 is outside the model's 30 tokens"):
        masked_log_likelihoods(model, inputs, scored, mask_token_id=30)
    model.train()
    with pytest.raises(ValueError, match="training mode"):
        masked_log_likelihoods(model, inputs, scored, mask_token_id=MASK)
    model.eval()
