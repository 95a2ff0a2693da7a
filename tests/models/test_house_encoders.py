"""CoSENT over our own Transformer: every kind of positions and attention in encoders; stock ones refuse."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModel, BertConfig, BertModel, LongformerConfig

from suzoo.losses import cosent_loss
from suzoo.models import CoSENTCrossEncoder, CoSENTModel, DialoGPTConfig, TTAConfig, UniLMConfig
from tests.models.test_every_kind import QUICK, WAYS, refused
from tests.models.tiny import SIZES, tiny_tokenizer

CONFIGS = {"unilm": UniLMConfig, "tta": TTAConfig, "dialogpt": DialoGPTConfig}
POOLING = {"unilm": "cls", "tta": "mean", "dialogpt": "last"}
KINDS = [(family, way) for family in CONFIGS for way in QUICK if not refused(family, way)]
FEW = [(family, way) for family, way in KINDS if way in ("elu1", "efficient", "rope, sinks", "alibi")]
TEXTS = ["今天天气很好", "我", "吃饭了吗今天", "天气"]


def encoder(family: str, way: str, **options) -> CoSENTModel:
    torch.manual_seed(0)
    model = CoSENTModel(CONFIGS[family](**SIZES | options, **WAYS[way]), pooling=POOLING[family]).eval()
    model.tokenizer = tiny_tokenizer()
    return model.double()


@pytest.mark.parametrize(("family", "way"), KINDS)
def test_vectors_do_not_depend_on_their_neighbours_and_are_saved(family, way, tmp_path):
    model = encoder(family, way, num_hidden_layers=2)
    vectors = model.encode(TEXTS, output="torch")
    assert vectors.unique(dim=0).shape[0] == len(TEXTS)
    for text, vector in zip(TEXTS, vectors, strict=True):
        torch.testing.assert_close(model.encode(text, output="torch"), vector, rtol=0, atol=1e-6)
    model.save_pretrained(tmp_path)
    again = CoSENTModel.from_pretrained(tmp_path)
    torch.testing.assert_close(again.encode(TEXTS, output="torch"), vectors, rtol=0, atol=1e-6)
    flags = [model._supports_flash_attn, model._supports_sdpa, model._supports_flex_attn]
    inside = model.encoder
    assert flags == [inside._supports_flash_attn, inside._supports_sdpa, inside._supports_flex_attn]
    assert again.pooling == POOLING[family] and list(tmp_path.glob("_linear_attention.py"))
    padded = model.tokenizer(TEXTS, padding=True, return_tensors="pt")
    states = AutoModel.from_pretrained(tmp_path, trust_remote_code=True)(**padded).last_hidden_state
    if family == "unilm":
        torch.testing.assert_close(states[:, 0].float(), vectors.float(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("family", "way"), FEW)
def test_an_encoder_of_ours_learns(family, way):
    model = encoder(family, way, num_hidden_layers=1, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    model.train()
    model.gradient_checkpointing_enable()
    inputs = model.tokenizer(TEXTS, padding=True, return_tensors="pt")
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=3e-3), []
    for _ in range(12):
        vectors = torch.nn.functional.normalize(model(**inputs).sentence_embedding, dim=-1)
        loss = cosent_loss((vectors[0::2] * vectors[1::2]).sum(-1), torch.tensor([0, 1]))
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0] / 2


def test_a_unilm_reads_in_both_directions_and_no_sentence_reaches_another():
    model = encoder("unilm", "rope")
    first, second = model.encode(["今天很好", "今天很大"], output="torch")
    assert (first - second).abs().max() > 1e-3  # their [CLS] sees what follows
    ids = model.tokenizer(TEXTS)["input_ids"]
    flat = torch.tensor([token for row in ids for token in row])
    found = model(flat, lengths=[len(row) for row in ids]).sentence_embedding
    torch.testing.assert_close(found.float(), model.encode(TEXTS, output="torch").float(), rtol=0, atol=1e-5)
    embeddings = model.encoder.embeddings.word_embeddings(torch.tensor(ids[:1]))
    found = model(inputs_embeds=embeddings).sentence_embedding
    torch.testing.assert_close(found.float()[0], model.encode(TEXTS[0], output="torch").float(), rtol=0, atol=1e-5)


BERT = {"vocab_size": 41, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48}


@pytest.mark.parametrize(
    "fields",
    [
        {"attention_window": 3}, {"attention_window": 3, "attention_sinks": 1}, {"attention_type": "elu1"},
        {"position_embedding_type": "alibi"}, {"log_n": "train"}, {"random_positions": 50},
    ],
)  # fmt: skip
def test_stock_encoders_refuse_in_one_sentence(fields, tmp_path):
    with pytest.raises(ValueError, match=f"bert computes its own attention and would not read .*{list(fields)[-1]}"):
        CoSENTModel(BertConfig(**BERT, **fields))
    BertModel(BertConfig(**BERT)).save_pretrained(tmp_path)
    for wrapper in (CoSENTModel, CoSENTCrossEncoder):
        with pytest.raises(ValueError, match="bert computes its own attention"):
            wrapper.from_pretrained(tmp_path, **fields)


def test_fields_of_other_encoders_and_those_that_change_nothing_pass(tmp_path):
    CoSENTModel(LongformerConfig(**BERT, attention_window=4))  # Longformer has a window of its own
    CoSENTModel(BertConfig(**BERT, attention_window=None, log_n="off", attention_type="softmax"))
    with pytest.raises(ValueError, match="unilm has no class for AutoModelForSequenceClassification"):
        CoSENTCrossEncoder(UniLMConfig(**SIZES))
