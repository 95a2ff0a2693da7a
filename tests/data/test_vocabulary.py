"""Slimming and growing vocabularies: model and tokenizer stay a pair, and kept tokens keep their bits."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel, TextStreamer

from suzoo.data.vocabulary import (
    add_compound_tokens,
    redundant_token,
    slim_vocabulary,
    tokens_to_keep,
    without_inner_spaces,
)
from tests.models.tiny import FAMILIES, tiny, tiny_tokenizer

TEXT = "今天天气很好"


@pytest.mark.parametrize("family", FAMILIES)
def test_slimming_keeps_the_logits_of_kept_tokens_bit_for_bit(family, tmp_path):
    model, tokenizer = tiny(family, double=False, mask_token_id=40, eos_token_id=[2, 4]), tiny_tokenizer()
    keep = tokens_to_keep(tokenizer, [TEXT, "我很好ab"])
    ids = tokenizer(TEXT, return_tensors="pt").input_ids
    types = torch.zeros_like(ids)
    if family != "tta":
        model.generation_config.suppress_tokens = [0, 11, 40]  # 11 is a token that goes
    before = model(ids, token_type_ids=types).logits
    slim = slim_vocabulary(model, tokenizer, keep)
    new_ids = slim(TEXT, return_tensors="pt").input_ids
    assert slim.convert_ids_to_tokens(new_ids[0]) == tokenizer.convert_ids_to_tokens(ids[0])
    assert len(slim) == len(keep) == model.config.vocab_size < 20
    after = model(new_ids, token_type_ids=types).logits
    assert torch.equal(after, before[..., keep])
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert model.config.pad_token_id == slim.pad_token_id and model.config.bos_token_id == slim.cls_token_id
    assert model.config.eos_token_id == [slim.sep_token_id, slim.convert_tokens_to_ids("今")]
    if family == "tta":
        assert model.config.mask_token_id == slim.mask_token_id
    else:
        assert model.generation_config.eos_token_id == model.config.eos_token_id
        assert 11 not in keep
        assert model.generation_config.suppress_tokens == [slim.pad_token_id, slim.mask_token_id]

    model.save_pretrained(tmp_path)
    slim.save_pretrained(tmp_path)
    again, loaded = type(model).from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert torch.equal(loaded(TEXT, return_tensors="pt").input_ids, new_ids)
    assert torch.equal(again(new_ids, token_type_ids=types).logits, after)
    assert loaded("今", "天").token_type_ids == [0, 0, 0, 1, 1]


def test_slimming_stock_models():
    config = BertConfig(vocab_size=41, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    model, tokenizer = BertForMaskedLM(config).eval(), tiny_tokenizer()
    torch.nn.init.normal_(model.cls.predictions.bias)
    keep = tokens_to_keep(tokenizer)
    ids = tokenizer(TEXT, return_tensors="pt").input_ids
    before = model(ids).logits
    slim = slim_vocabulary(model, tokenizer, keep)
    assert torch.equal(model(slim(TEXT, return_tensors="pt").input_ids).logits, before[..., keep])
    assert model.cls.predictions.bias is model.cls.predictions.decoder.bias
    untied = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=41, n_embd=16, n_layer=1, n_head=2, eos_token_id=2, bos_token_id=1, tie_word_embeddings=False
        )
    ).eval()
    before = untied(ids).logits
    slim = slim_vocabulary(untied, tokenizer, keep)
    assert torch.equal(untied(slim(TEXT, return_tensors="pt").input_ids).logits, before[..., keep])


def test_rule_of_bert4keras():
    dropped = ["##今", "今天", "[unused1]", "...", "##!", "a。"]
    assert all(redundant_token(token) for token in dropped)
    assert not any(redundant_token(token) for token in ["今", "。", "!", "ab", "##ab", "の", "##の", "2019", "##"])
    keep = tokens_to_keep(tiny_tokenizer())
    assert keep[:5] == [0, 1, 2, 3, 40] and keep[5:] == list(range(4, 34))


def test_counts_decide():
    tokenizer = tiny_tokenizer()
    keep = tokens_to_keep(tokenizer, ["今今天", "今"], min_count=2)
    assert tokenizer.convert_ids_to_tokens(keep)[5:] == ["今"]


def test_slimming_refuses_what_would_break():
    model, tokenizer = tiny("unilm", double=False), tiny_tokenizer()
    keep = tokens_to_keep(tokenizer, [TEXT])
    for bad, reason in (
        ([*keep, keep[-1]], "each id once"),
        ([*keep, 99], "41 tokens"),
        (keep[1:], r"special tokens: \[PAD\]"),
    ):
        with pytest.raises(ValueError, match=reason):
            slim_vocabulary(model, tokenizer, bad)
    assert model.config.vocab_size == 41


def test_compound_tokens_start_as_the_mean_of_their_pieces():
    model, tokenizer = tiny("unilm", double=False), tiny_tokenizer()
    pieces = tokenizer("天气", add_special_tokens=False).input_ids
    weight, bias = model.get_input_embeddings().weight.detach().clone(), model.cls.predictions.bias.detach().clone()
    assert add_compound_tokens(model, tokenizer, ["天气", "今", "鑫鑫", "ab", "天气"]) == 2
    ids = tokenizer("今天天气abb", add_special_tokens=False).input_ids
    assert tokenizer.convert_ids_to_tokens(ids) == ["今", "天", "天气", "a", "##b", "##b"]
    assert tokenizer.convert_ids_to_tokens(tokenizer("ab 好", add_special_tokens=False).input_ids) == ["ab", "好"]
    assert model.config.vocab_size == 43
    torch.testing.assert_close(model.get_input_embeddings().weight[41], weight[pieces].mean(0))
    torch.testing.assert_close(model.cls.predictions.decoder.bias[41], bias[pieces].mean())
    assert torch.equal(model.get_input_embeddings().weight[:41], weight)
    logits = model(torch.tensor([[1, 4, 2]])).logits[0]
    torch.testing.assert_close(logits[:, 41], logits[:, pieces].mean(-1), rtol=1e-4, atol=1e-4)


def test_chinese_is_decoded_without_spaces_also_after_a_reload(tmp_path, capsys):
    stock = tiny_tokenizer()
    tokenizer = without_inner_spaces(stock)
    tokenizer.save_pretrained(tmp_path)
    for each in (tokenizer, AutoTokenizer.from_pretrained(tmp_path), without_inner_spaces(tokenizer)):
        for text in ("今天天气很好", "ab a我b很", "a ab"):
            ids = each(text).input_ids
            assert ids == stock(text).input_ids
            assert each.decode(ids, skip_special_tokens=True) == text
        assert each("今", "天").token_type_ids == [0, 0, 0, 1, 1]
        assert each.padding_side == stock.padding_side and each.all_special_ids == stock.all_special_ids
    streamer = TextStreamer(tokenizer, skip_special_tokens=True)
    for token_id in tokenizer(TEXT).input_ids:
        streamer.put(torch.tensor([token_id]))
    streamer.end()
    assert capsys.readouterr().out == TEXT + "\n"
