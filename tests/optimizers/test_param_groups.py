from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForMaskedLM, LlamaConfig, LlamaForCausalLM
from transformers.trainer_pt_utils import get_parameter_names

from suzoo.optimizers import param_groups, parameter_kinds


def bert() -> BertForMaskedLM:
    config = BertConfig(
        vocab_size=40, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=16,
    )  # fmt: skip
    return BertForMaskedLM(config)


def llama() -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=40, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        tie_word_embeddings=False,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def test_parameter_kinds_of_bert():
    kinds = parameter_kinds(bert())
    assert kinds["bert.embeddings.word_embeddings.weight"] == "embedding"
    assert kinds["bert.embeddings.LayerNorm.weight"] == "norm"
    assert kinds["bert.embeddings.LayerNorm.bias"] == "bias"
    assert kinds["bert.encoder.layer.0.attention.self.query.weight"] == "matrix"
    assert kinds["bert.encoder.layer.0.attention.self.query.bias"] == "bias"
    assert kinds["cls.predictions.bias"] == "bias"


def test_parameter_kinds_knows_norm_classes_that_are_not_torch_s():
    kinds = parameter_kinds(llama())
    assert kinds["model.layers.1.input_layernorm.weight"] == "norm"
    assert kinds["lm_head.weight"] == "matrix"  # untied: a matrix


@pytest.mark.parametrize("first", ["embedding", "head"])
def test_a_tied_head_is_an_embedding_whatever_the_order(first):
    embedding, head = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
    head.weight = embedding.weight
    model = nn.Sequential(embedding, head) if first == "embedding" else nn.Sequential(head, embedding)
    (group,) = param_groups(model, weight_decay=0.1)
    assert group["kind"] == "embedding" and len(group["params"]) == 1


@pytest.mark.parametrize("build", [bert, llama])
def test_param_groups_decay_what_the_trainer_decays(build):
    """transformers' Trainer decides by name; on real models the module rule must agree."""
    model = build()
    ours = {p for g in param_groups(model, weight_decay=0.1) if g["weight_decay"] for p in g["params"]}
    forbidden = [r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"]
    names = get_parameter_names(model, [nn.LayerNorm, nn.RMSNorm], forbidden)
    theirs = {p for n, p in model.named_parameters() if n in names}
    assert ours == theirs


def test_param_groups_cover_every_trainable_parameter_once():
    model = bert()
    model.bert.embeddings.position_embeddings.weight.requires_grad_(False)
    for layer_decay in (1.0, 0.8):
        found = [p for g in param_groups(model, weight_decay=0.1, lr=1.0, layer_decay=layer_decay) for p in g["params"]]
        assert len(found) == len(set(found))
        assert set(found) == {p for p in model.parameters() if p.requires_grad}


def test_layer_decay_gives_each_layer_one_factor_less():
    model = bert()
    rate = {}
    for group in param_groups(model, weight_decay=0.1, lr=1.0, layer_decay=0.5):
        rate |= {p: group["lr"] for p in group["params"]}
    names = dict(model.named_parameters())
    assert rate[names["bert.embeddings.LayerNorm.weight"]] == 0.5**3
    assert rate[names["bert.encoder.layer.0.output.dense.weight"]] == 0.5**2
    assert rate[names["bert.encoder.layer.1.output.dense.bias"]] == 0.5
    assert rate[names["cls.predictions.transform.dense.weight"]] == 1


def test_param_groups_work_with_a_torch_optimizer():
    model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    optimizer = torch.optim.AdamW(param_groups(model, weight_decay=0.1, lr=0.3), lr=1e-3)
    assert {g["lr"] for g in optimizer.param_groups} == {0.3}
    assert {g["kind"]: g["weight_decay"] for g in optimizer.param_groups} == {"matrix": 0.1, "bias": 0.0, "norm": 0.0}
    without_lr = torch.optim.AdamW(param_groups(model, weight_decay=0.1), lr=1e-3)
    assert {g["lr"] for g in without_lr.param_groups} == {1e-3}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"no_decay": ("norms",)}, "unknown kinds"),
        ({"layer_decay": 0.9}, "pass lr="),
        ({"layer_decay": 0.9, "lr": 1.0}, "no numbered layers"),
        ({"layer_decay": 1.5, "lr": 1.0}, "layer_decay must be"),
        ({"weight_decay": -1.0}, "weight_decay must be"),
    ],
)
def test_param_groups_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        param_groups(nn.Linear(2, 2), **{"weight_decay": 0.1, **options})


def test_param_groups_refuses_a_frozen_model():
    with pytest.raises(ValueError, match="requires_grad"):
        param_groups(nn.Linear(2, 2).requires_grad_(False), weight_decay=0.1)
