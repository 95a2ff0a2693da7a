"""Attention's entropy and noise: the article's numbers, and every model family against attention weights."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import BertModel, LlamaConfig, LlamaForCausalLM

from suzoo.analysis import (
    attention_report,
    cosine_entropy_bound,
    gaussian_entropy,
    max_cosine_attention,
    noise_response,
)
from suzoo.models import CoSENTModel
from tests.models.tiny import tiny, tokens
from tests.tiny import tiny_config


def entropy(weights: torch.Tensor) -> torch.Tensor:
    return torch.special.entr(weights).sum(-1)


def test_cosine_scores_cannot_focus():
    # two points on [-1/tau, 1/tau], by brute force over the share of the lower one
    for temperature, table in ((1.0, -0.4745), (0.5, None), (1 / math.log(512), -8.953)):
        share = torch.linspace(1e-9, 1 - 1e-9, 2_000_001, dtype=torch.float64)
        low, high = math.exp(-1 / temperature), math.exp(1 / temperature)
        z = share * low + (1 - share) * high
        grid = (z.log() - (share * low * -1 + (1 - share) * high) / temperature / z).min().item()
        assert cosine_entropy_bound(temperature) == pytest.approx(grid, abs=2e-3)
        if table is not None:
            assert cosine_entropy_bound(temperature) == pytest.approx(table, abs=1e-3)
    for temperature in (0.1, 0.05, 0.01):  # there a grid over the share is too coarse
        closed = math.log(2 / temperature) - 2 / temperature + 1
        assert cosine_entropy_bound(temperature) == pytest.approx(closed, abs=1e-6)
    scores = torch.rand(2000, 64, dtype=torch.float64) * 2 - 1
    scores[::2] = scores[::2].sign()
    assert (entropy(scores.softmax(-1)) - math.log(64)).min() >= cosine_entropy_bound(1.0)
    found = [max_cosine_attention(512, temperature) for temperature in (1.0, 0.25, 0.1)]
    assert found == pytest.approx([0.0143, 0.8537, 1.0], abs=1e-4)
    with pytest.raises(ValueError, match="temperature must be positive"):
        cosine_entropy_bound(0.0)


def test_normal_scores_have_half_their_variance_less():
    for std in (0.5, 1.0, 2.0):
        found = entropy((std * torch.randn(100, 8192, dtype=torch.float64)).softmax(-1)).mean().item()
        assert found == pytest.approx(gaussian_entropy(8192, std), abs=0.05)


def test_noise_moves_the_output_as_predicted():
    scores, values = torch.randn(2, 3, 4096, dtype=torch.float64), torch.randn(2, 4096, 16, dtype=torch.float64)
    measured, predicted = noise_response(scores, values, 0.5, num_samples=100)
    assert measured.shape == predicted.shape == (2, 3)
    torch.testing.assert_close(measured, predicted, rtol=0.15, atol=0)
    weights = scores[0, 0].softmax(-1)
    output = weights @ values[0]
    slow = math.expm1(0.25) * sum(w**2 * (v - output).square().sum() for w, v in zip(weights, values[0], strict=True))
    assert predicted[0, 0].item() == pytest.approx(slow.item())
    more = noise_response(scores[..., :64], values[:, :64], 0.5)[0]
    assert (more > 5 * measured).all()  # the noise cancels over many keys


MODELS = {
    "dialogpt": lambda: tiny("dialogpt"),
    "dialogpt rope": lambda: tiny("dialogpt", position_embedding_type="rope"),
    "unilm": lambda: tiny("unilm"),
    "tta": lambda: tiny("tta"),
    "bert": lambda: BertModel(tiny_config()).double().eval(),
    "cosent": lambda: CoSENTModel(tiny_config()).double().eval(),
    "llama": lambda: LlamaForCausalLM(
        LlamaConfig(vocab_size=41, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
                    num_key_value_heads=2)
    ).double().eval(),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_report_is_that_of_the_attention_weights(name):
    model = MODELS[name]()
    before = model.config._attn_implementation
    inputs = {"input_ids": tokens(2, 9), "attention_mask": torch.tensor([[1] * 9, [1] * 6 + [0] * 3])}
    report = attention_report(model, inputs)
    assert model.config._attn_implementation == before
    model.set_attn_implementation("eager")
    attentions = model(**inputs, output_attentions=True).attentions
    real = inputs["attention_mask"].bool()
    for layer, weights in enumerate(attentions):
        visible = (weights > 0).sum(-1)
        counted = (visible > 1) & real[:, None]
        for head in range(weights.shape[1]):
            rows = counted[:, head]
            share = entropy(weights[:, head])[rows] / visible[:, head][rows].log()
            assert report.relative_entropy[layer, head].item() == pytest.approx(share.mean().item(), abs=1e-5)
            logs = [row[row > 0].log() for row in weights[:, head][rows]]
            std = torch.stack([row.std(correction=0) for row in logs]).mean().item()
            assert report.score_std[layer, head].item() == pytest.approx(std, rel=1e-4)
    assert report.entropy.shape == (3, 4) and report.output_change > 0
    assert (report.noise > 0).all() and report.noise.isfinite().all()
    text = str(report)
    assert len(text.splitlines()) == 7 and f"of {3 * 4} heads have less than a tenth" in text


def test_the_last_queries_alone():
    """Of the tokens of a row, behind padding and before it; their keys are the whole row."""
    model = tiny("dialogpt")
    ids, mask = tokens(2, 9), torch.tensor([[1] * 9, [0] * 1 + [1] * 6 + [0] * 2])
    report = attention_report(model, {"input_ids": ids, "attention_mask": mask}, last=1)
    model.set_attn_implementation("eager")
    attentions = model(ids, attention_mask=mask, output_attentions=True).attentions
    for layer, weights in enumerate(attentions):
        expected = (entropy(weights[0, :, 8]) + entropy(weights[1, :, 6])) / 2
        torch.testing.assert_close(report.entropy[layer].double(), expected, rtol=0, atol=1e-5)
    assert report.num_keys == 7.5
    with pytest.raises(ValueError, match="from 1 on, not 0"):
        attention_report(model, {"input_ids": ids}, last=0)


def test_initialization_check_and_collapse():
    ids = {"input_ids": tokens(2, 20)}
    small = attention_report(tiny("dialogpt", initializer_range=0.02), ids)
    assert not small.starts_focused.any() and not small.collapsed.any() and (small.relative_entropy > 0.95).all()
    large = tiny("dialogpt", initializer_range=0.02)
    for layer in large.bert.encoder.layer:
        layer.attention["self"].query.weight.data *= 3e4
    report = attention_report(large, ids)
    assert report.starts_focused.all() and report.collapsed.any()


def test_report_in_bf16_and_what_it_cannot_read():
    model = tiny("dialogpt", double=False)
    wide, narrow = (attention_report(m, {"input_ids": tokens(2, 12)}) for m in (model, model.bfloat16()))
    torch.testing.assert_close(wide.entropy, narrow.entropy, rtol=0.1, atol=0.1)
    with pytest.raises(ValueError, match="no query sees two keys"):
        attention_report(tiny("dialogpt"), {"input_ids": tokens(3, 1)})
    with pytest.raises(ValueError, match="NEZHA positions need"):
        attention_report(tiny("dialogpt", position_embedding_type="nezha"), {"input_ids": tokens(1, 5)})
