"""Integrated gradients: against a loop and captum's layer form; every kind of model; colours, pages and pictures."""

from __future__ import annotations

import math
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from captum.attr import LayerIntegratedGradients
from torch import nn
from transformers import (
    BertForMaskedLM,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
)

from suzoo.analysis import explain, integrated_gradients
from suzoo.analysis.render import AGAINST, FOR, font_for, save_png, to_html, to_terminal
from suzoo.cli import main
from suzoo.models import CoSENTCrossEncoder, CoSENTModel
from tests.models.tiny import tiny
from tests.models.tiny import tiny_tokenizer as chinese_tokenizer
from tests.test_cli import fails
from tests.tiny import tiny_config, tiny_tokenizer

TEXT, OTHER = "a man is playing a flute", "nobody sleeps"


def network() -> nn.Sequential:
    layers = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 1)).double()
    for parameter in layers.parameters():
        nn.init.normal_(parameter, std=0.6)
    return layers


def slow(score, x, baseline, points, weights):
    """The definition, point by point."""
    total = torch.zeros_like(x)
    for point, weight in zip(points, weights, strict=True):
        z = (baseline + point * (x - baseline)).requires_grad_()
        total += weight * torch.autograd.grad(score(z).sum(), z)[0]
    return (x - baseline) * total


def test_values_are_those_of_the_definition():
    net = network()
    x, baseline = torch.randn(3, 5, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)

    def score(z):
        return net(z).squeeze(-1)

    nodes, weights = np.polynomial.legendre.leggauss(20)
    expected = slow(score, x, baseline, (nodes + 1) / 2, weights / 2)
    found = integrated_gradients(score, x, baseline, num_steps=20)
    torch.testing.assert_close(found.values[0], expected, rtol=0, atol=1e-7)  # captum's points are rounded
    assert found.error.abs().max() < 1e-6 and torch.equal(found.score, score(x))
    torch.testing.assert_close(found.values[0].sum(-1), score(x) - score(baseline), rtol=0, atol=1e-6)
    split = integrated_gradients(score, x, baseline, num_steps=20, batch_size=7)
    torch.testing.assert_close(split.values[0], found.values[0], rtol=0, atol=1e-12)
    # the article's sum is near, bert4keras' demo (times the point on the way) is not
    riemann = slow(score, x, baseline, np.arange(1, 301) / 300, np.full(300, 1 / 300))
    assert 1e-5 < (riemann - expected).abs().max() < 2e-2


def test_axioms():
    weight = torch.randn(5, dtype=torch.float64)
    x = torch.randn(2, 5, dtype=torch.float64)
    linear = integrated_gradients(lambda z: z @ weight, x, num_steps=1)
    torch.testing.assert_close(linear.values[0], x * weight, rtol=0, atol=1e-7)  # linear scores: exactly w x
    net = network()
    net[0].weight.data[:, 2] = 0.0
    assert integrated_gradients(lambda z: net(z)[:, 0], x).values[0][:, 2].abs().max() == 0  # what is not read
    pair = integrated_gradients(lambda a, b: (a * b).sum(-1), [x, 2 * x])
    assert len(pair.values) == 2 and pair.error.abs().max() < 1e-7
    with pytest.raises(ValueError, match="one for each row"):
        integrated_gradients(lambda z: net(z), x)
    with pytest.raises(ValueError, match="baselines have the shapes"):
        integrated_gradients(lambda z: net(z)[:, 0], x, x[:1])
    with pytest.raises(ValueError, match="num_steps must be positive"):
        integrated_gradients(lambda z: net(z)[:, 0], x, num_steps=0)


def classifier(**options):
    torch.manual_seed(0)
    labels = {0: "bad", 1: "good", 2: "none"}
    config = tiny_config(num_labels=3, id2label=labels, initializer_range=0.3, **options)
    return BertForSequenceClassification(config).eval()


def complete(explanation) -> None:
    total = explanation.score - explanation.baseline_score
    assert abs(explanation.error) <= 1e-4 * max(1, abs(total))
    assert sum(explanation.values) == pytest.approx(total, abs=1e-4, rel=1e-4)
    specials = [v for t, v in zip(explanation.tokens, explanation.values, strict=True) if t in ("[CLS]", "[SEP]")]
    assert all(value == 0 for value in specials) and any(abs(v) > 1e-4 for v in explanation.values)


def test_a_classifier_is_explained_as_captum_explains_it():
    model, tokenizer = classifier(), tiny_tokenizer()
    found = explain(model, tokenizer, TEXT, target="good", baseline="pad")
    complete(found)
    inputs = tokenizer(TEXT, return_tensors="pt")
    special = torch.isin(inputs.input_ids, torch.tensor([2, 3]))
    baselines = inputs.input_ids.masked_fill(~special, 0)

    def logits(ids):
        ones = inputs.attention_mask.expand(len(ids), -1)
        return model(ids, attention_mask=ones, token_type_ids=torch.zeros_like(ids)).logits

    layer = LayerIntegratedGradients(logits, model.bert.embeddings.word_embeddings)
    expected = layer.attribute(inputs.input_ids, baselines=baselines, target=1, n_steps=50).sum(-1)[0]
    torch.testing.assert_close(torch.tensor(found.values), expected, rtol=0, atol=1e-4, check_dtype=False)
    assert found.tokens == ["[CLS]", *TEXT.split(), "[SEP]"] and found.target == "logit of good"
    assert found.score == pytest.approx(float(model(**inputs).logits[0, 1]), abs=1e-5)
    # by default the likeliest class
    likeliest = explain(model, tokenizer, TEXT)
    assert likeliest.target == f"logit of {model.config.id2label[int(model(**inputs).logits.argmax())]}"
    share = explain(model, tokenizer, TEXT, target=1, probability=True)
    complete(share)
    assert share.score == pytest.approx(float(model(**inputs).logits.softmax(-1)[0, 1]), abs=1e-5)
    assert share.target == "probability of good"


@pytest.mark.parametrize("baseline", ["zero", "mean", "pad", "mask"])
def test_baselines(baseline):
    found = explain(classifier(), tiny_tokenizer(), TEXT, baseline=baseline, batch_size=4)
    complete(found)
    with pytest.raises(ValueError, match="baseline is zero, mean, pad or mask"):
        explain(classifier(), tiny_tokenizer(), TEXT, baseline="nothing")


def test_encoder_pairs_and_cross_encoders():
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    encoder = CoSENTModel(tiny_config(initializer_range=0.3)).eval()
    found = explain(encoder, tokenizer, TEXT, OTHER)
    complete(found)
    vectors = encoder.encode([TEXT, OTHER], tokenizer=tokenizer, normalize=True)
    assert found.score == pytest.approx(float(vectors[0] @ vectors[1]), abs=1e-4)
    assert found.num_first == 8 and found.tokens[8:] == ["[CLS]", *OTHER.split(), "[SEP]"]
    cross = CoSENTCrossEncoder(tiny_config(initializer_range=0.3, num_labels=1)).eval()
    pair = explain(cross, tokenizer, TEXT, OTHER)
    complete(pair)
    assert pair.score == pytest.approx(float(cross.predict([(TEXT, OTHER)], tokenizer=tokenizer)[0]), abs=1e-4)


def test_language_models():
    tokenizer = chinese_tokenizer()
    for family in ("dialogpt", "unilm"):
        model = tiny(family, double=False)
        found = explain(model, tokenizer, "今天天气很好")
        complete(found)
        ids = torch.tensor([tokenizer("今天天气很好")["input_ids"]])
        types = {"token_type_ids": torch.zeros_like(ids)} if family == "unilm" else {}
        logits = model(ids, **types).logits[0, -1]
        assert found.target == f"logit of {tokenizer.convert_ids_to_tokens(int(logits.argmax()))}"
        assert found.score == pytest.approx(float(logits.max()), abs=1e-4)
        named = explain(model, tokenizer, "今天天气很好", target="他")
        assert named.score == pytest.approx(float(logits[tokenizer.convert_tokens_to_ids("他")]), abs=1e-4)
    torch.manual_seed(0)
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=41, n_embd=32, n_layer=2, n_head=4, initializer_range=0.2)).eval()
    complete(explain(gpt2, tokenizer, "今天天气很好", probability=True))


@pytest.mark.parametrize("query_init", ["mask", "position"])
def test_t_ta_and_a_masked_model(query_init):
    tokenizer, text = chinese_tokenizer(), "今天天气很好"
    model = tiny("tta", double=False, query_init=query_init)
    found = explain(model, tokenizer, text, position=2)
    complete(found)
    assert found.tokens[3] == "天" and found.values[3] == 0 and found.target == "logit of 天"
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    assert found.score == pytest.approx(float(model(ids).logits[0, 3, ids[0, 3]]), abs=1e-4)
    torch.manual_seed(0)
    mlm = BertForMaskedLM(tiny_config(vocab_size=41, initializer_range=0.3)).eval()
    masked = explain(mlm, tokenizer, text, position=2, target="他")
    assert masked.tokens[3] == "[MASK]" and masked.values[3] == 0
    complete(masked)


def test_what_cannot_be_explained():
    model, tokenizer = classifier(), tiny_tokenizer()
    wrong = [
        ({"text": ""}, "has no tokens"),
        ({"text": TEXT, "target": "better"}, "the model has no class 'better'; it has bad, good, none"),
        ({"text": TEXT, "target": 3}, "the model has no class 3"),
        ({"text": TEXT, "position": 1}, "position= goes with masked"),
    ]
    for arguments, message in wrong:
        with pytest.raises(ValueError, match=message):
            explain(model, tokenizer, **arguments)
    with pytest.raises(ValueError, match="position 6 is outside the 6 tokens"):
        explain(tiny("tta"), chinese_tokenizer(), "今天天气很好", position=6)
    with pytest.raises(ValueError, match="reads two texts"):
        explain(CoSENTModel(tiny_config()).eval(), tokenizer, TEXT)
    with pytest.raises(ValueError, match="has no score to explain"):
        explain(nn.Linear(2, 2), tokenizer, TEXT)


def test_captum_is_an_extra(monkeypatch, tmp_path, capsys):
    classifier().save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(ValueError, match=r"pip install 'suzoo\[explain\]'"):
        integrated_gradients(lambda z: z.sum(-1), torch.ones(1, 2))
    assert "pip install 'suzoo[explain]'" in fails(capsys, "explain", tmp_path, TEXT)


def test_colours_pages_and_pictures(tmp_path):
    found = explain(classifier(), tiny_tokenizer(), TEXT)
    largest = max(found.values, key=abs)
    red, green, blue = FOR if largest > 0 else AGAINST
    terminal, page = to_terminal(found), to_html(found)
    assert f"\x1b[48;2;{red};{green};{blue}m" in terminal and "\x1b[48;2;255;255;255m" in terminal
    strange = replace(found, tokens=["<b>"] * len(found.tokens))
    assert "&lt;b&gt;</span>" in to_html(strange) and "<b>" not in to_html(strange)
    assert f'rgb({red},{green},{blue})" title="{largest:+.4f}"' in page and "<script" not in page
    save_png(found, tmp_path / "tokens.png")
    assert (tmp_path / "tokens.png").read_bytes().startswith(b"\x89PNG")
    assert font_for("plain") == "DejaVu Sans"
    with pytest.raises(ValueError, match="no installed font has"):
        font_for("\U00018b00")  # Khitan
    assert "completeness error" in str(found) and math.isfinite(found.error)


def test_the_command(tmp_path, capsys):
    folder = tmp_path / "classifier"
    classifier().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    outputs = [str(tmp_path / name) for name in ("a.html", "a.png")]
    assert main(["explain", str(folder), "a man <b> sleeps", "--target", "good", "--output", *outputs]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("logit of good:") and "\x1b" not in printed
    assert "[UNK]" in (tmp_path / "a.html").read_text() and (tmp_path / "a.png").stat().st_size > 1000
    assert main(["explain", str(folder), TEXT, "--color"]) == 0 and "\x1b[48;2;" in capsys.readouterr().out
    encoder = tmp_path / "encoder"
    CoSENTModel(tiny_config()).save_pretrained(encoder, tokenizer=tiny_tokenizer())
    assert main(["explain", str(encoder), TEXT, "--pair", OTHER, "--baseline", "mean"]) == 0
    assert capsys.readouterr().out.startswith("cosine similarity:")
    assert "exists; give --overwrite" in fails(capsys, "explain", folder, TEXT, "--output", outputs[0])
    assert "no class 'x'" in fails(capsys, "explain", folder, TEXT, "--target", "x")
    assert "reads two texts" in fails(capsys, "explain", encoder, TEXT)
