"""Slimming and growing vocabularies: model and tokenizer stay a pair, and kept tokens keep their bits."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    TextStreamer,
)

from suzoo.data import DialogueLayout, encode_source_target, train_unigram
from suzoo.data.vocabulary import (
    add_compound_tokens,
    add_tokens,
    chat_tokenizer,
    num_ids,
    redundant_token,
    seq2seq_tokenizer,
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
        (keep[1:], r"needed tokens: \[PAD\]"),
    ):
        with pytest.raises(ValueError, match=reason):
            slim_vocabulary(model, tokenizer, bad)
    model.config.pad_token_id = 30  # of a token that goes
    with pytest.raises(ValueError, match=re.escape(f"tokens: {tokenizer.convert_ids_to_tokens(30)}")):
        slim_vocabulary(model, tokenizer, keep)
    tagged = add_tokens(tiny_tokenizer(), ["[speaker1]"], special=True)
    model.resize_token_embeddings(42, mean_resizing=False)
    with pytest.raises(ValueError, match="must stand last"):
        slim_vocabulary(model, tagged, [41, *range(41)])
    assert model.config.vocab_size == 42


def test_compound_tokens_start_as_the_mean_of_their_pieces():
    model, tokenizer = tiny("unilm", double=False), tiny_tokenizer()
    pieces = tokenizer("天气", add_special_tokens=False).input_ids
    weight, bias = model.get_input_embeddings().weight.detach().clone(), model.cls.predictions.bias.detach().clone()
    grown, num_added = add_compound_tokens(model, tokenizer, ["天气", "今", "鑫鑫", "ab", "天气"])
    assert grown is tokenizer and num_added == 2
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


# ---- other tokenizers: a text whose tokens stay is cut as before, its logits are what they were

CORPUS = [
    "Today the weather in Beijing is fine: 今天天气很好。",
    "A café in Zürich, 3.14 km away 🎉 costs 1,024 €",
    "the theatre there is thin\u2028and other things that thrill",
    "NASA and the FBI don’t “talk” — …",
    "我们去公园散步吧！今天天气真好",
] * 3
# what is asked of the cut tokenizer: capitals, accents, digits, emoji, U+2028, added tokens in the middle of words
ASKED = [
    *CORPUS[:5],
    "weather in Zürich 3.14 🎉",
    "the there<sep>Today[speaker1]café\u2028NASA",
    "今天[speaker1]天气",
    "  the  theatre ",
    "",
]


def byte_level_bpe() -> PreTrainedTokenizerFast:
    """As GPT-2's, trained on the corpus and on words that the corpus lacks."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    from tokenizers import trainers

    trainer = trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
        special_tokens=["<|endoftext|>"],
    )  # fmt: skip
    tokenizer.train_from_iterator([*CORPUS, *["thunder and lightning, mathematical 他买了三本书"] * 6], trainer)
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single="$A <|endoftext|>",
                special_tokens=[("<|endoftext|>", tokenizer.token_to_id("<|endoftext|>"))],
            ),
        ]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>", pad_token="<|endoftext|>")


def unigram() -> PreTrainedTokenizerFast:
    return train_unigram([*CORPUS, *["thunder and lightning, mathematical 他买了三本书"] * 6], vocab_size=330)


def wordpiece_with_a_line_twice() -> BertTokenizer:
    """As a vocab.txt makes it: the later of two equal lines counts, and the last token is no special one."""
    words = sorted(tiny_tokenizer().get_vocab(), key=tiny_tokenizer().get_vocab().get)
    words[words.index("[unused0]")], words[-1] = "[MASK]", "[unused1]"
    return BertTokenizer(vocab={word: place for place, word in enumerate(words)}, do_lower_case=True)


@pytest.mark.parametrize("make", [byte_level_bpe, unigram, wordpiece_with_a_line_twice])
def test_texts_give_the_same_logits_with_fewer_tokens(make, tmp_path):
    original = add_tokens(make(), ["[speaker1]"], special=True)
    original = add_tokens(original, ["<sep>"])
    assert len(set(original.get_vocab().values())) == len(original.get_vocab())
    config = GPT2Config(
        vocab_size=num_ids(original) + 3, n_embd=16, n_layer=1, n_head=2, bos_token_id=None,
        eos_token_id=original.eos_token_id, initializer_range=1.0,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).double().eval()
    keep = tokens_to_keep(original, CORPUS)
    rows = model.get_input_embeddings().weight.detach().clone()
    asked = [text for text in ASKED if set(original(text).input_ids) <= set(keep) and original(text).input_ids]
    assert len(asked) >= 7 and len(keep) <= num_ids(original) - 10
    with torch.no_grad():
        before = [model(torch.tensor([original(text).input_ids])).logits[..., keep] for text in asked]
    slim = slim_vocabulary(model, original, keep)
    model.save_pretrained(tmp_path)
    slim.save_pretrained(tmp_path)
    for answering, tokenizer in (
        (model, slim),
        (GPT2LMHeadModel.from_pretrained(tmp_path, dtype=torch.float64), AutoTokenizer.from_pretrained(tmp_path)),
    ):
        assert torch.equal(answering.get_input_embeddings().weight, rows[keep])
        assert sorted(tokenizer.get_vocab().values()) == list(range(len(keep))) and num_ids(tokenizer) == len(keep)
        for text, logits in zip(asked, before, strict=True):
            ids = tokenizer(text).input_ids
            assert [keep[token_id] for token_id in ids] == original(text).input_ids
            assert tokenizer.decode(ids) == original.decode(original(text).input_ids)
            with torch.no_grad():  # a product of another shape may round otherwise
                torch.testing.assert_close(answering(torch.tensor([ids])).logits, logits, rtol=0, atol=1e-12)


def test_nothing_is_unwritable_for_bytes():
    original, lost = byte_level_bpe(), "zebra 鑫 Ω"
    slim = slim_vocabulary(_gpt2(original), original, tokens_to_keep(original, ["the weather"]))
    assert slim.decode(slim(lost).input_ids, skip_special_tokens=True) == lost
    assert len(slim) < len(original)


def test_an_unknown_character_counts_as_before():
    """Without the lowest score in the table, [UNK] would become dearer than a rare piece, and the text another."""
    pieces = [("<unk>", 0.0), ("a", -20.0), ("ab", -6.0), ("c", -6.0), ("bc", -1.0), ("b", -6.0)]
    backend = Tokenizer(models.Unigram(pieces, unk_id=0))
    original = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    assert original.tokenize("abc") == ["ab", "c"]
    keep = tokens_to_keep(original, ["abc", "bc"])
    assert "a" in original.convert_ids_to_tokens(keep) and "b" not in original.convert_ids_to_tokens(keep)
    slim = slim_vocabulary(_gpt2(original), original, keep)
    assert slim.tokenize("abc") == ["ab", "c"]


def _gpt2(tokenizer) -> GPT2LMHeadModel:
    config = GPT2Config(
        vocab_size=num_ids(tokenizer), n_embd=8, n_layer=1, n_head=1, bos_token_id=None, eos_token_id=None
    )
    return GPT2LMHeadModel(config)


def test_a_hole_gives_no_token_the_id_of_another(tmp_path):
    stock = wordpiece_with_a_line_twice()
    assert len(stock) < num_ids(stock) == 41
    broken = copy.deepcopy(stock)
    broken.add_tokens(["天气"])
    assert broken.convert_tokens_to_ids("天气") == broken.convert_tokens_to_ids("[unused1]")  # tokenizers counts
    model = tiny("unilm", double=False)
    with pytest.raises(ValueError, match="gives id 40 to"):
        slim_vocabulary(model, broken, tokens_to_keep(broken))
    weight = model.get_input_embeddings().weight.detach().clone()
    tokenizer, num_added = add_compound_tokens(model, stock, ["天气"])
    assert num_added == 1 and tokenizer.convert_tokens_to_ids("天气") == 41 == model.config.vocab_size - 1
    assert torch.equal(model.get_input_embeddings().weight[:41], weight)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded("今天天气").input_ids == tokenizer("今天天气").input_ids == [1, 4, 5, 41, 2]


def test_tokens_without_a_row_have_none_afterwards():
    original = tiny_tokenizer()
    original.add_tokens(["<no row>"])
    model = tiny("unilm", double=False)
    keep = tokens_to_keep(original, [TEXT])
    slim = slim_vocabulary(model, original, keep)
    assert model.config.vocab_size == len(keep) - 1 == slim.convert_tokens_to_ids("<no row>")


def test_spaces_go_beside_chinese_and_japanese_only():
    texts = {
        "he said “yes” and left": "he said “ yes ” and left",  # as stock
        "the plan — if any — … failed": "the plan — if any — … failed",
        "don’t stop, the students’ books": "don’t stop, the students ’ books",
        "서울 — 부산": "서울 — 부산",
        "他说“好”，然后走了": "他说“好”，然后走了",
        "他说“yes”然后——走了……": "他说“yes”然后——走了……",
        "他问：‘何？’我答“no”。": "他问：‘何？’我答“no”。",
        "用 gpt 写": "用gpt写",
        "サイエンス・ニュース": "サイエンス・ニュース",
    }
    normalizer, pre_tokenizer = normalizers.BertNormalizer(lowercase=False), pre_tokenizers.BertPreTokenizer()
    words = {word for text in texts for word, _ in pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(text))}
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    stock = BertTokenizer(
        vocab={word: place for place, word in enumerate([*special, *sorted(words)])}, do_lower_case=False
    )
    tokenizer = without_inner_spaces(stock)
    for text, expected in texts.items():
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == expected


def of_roberta(tokenizer) -> PreTrainedTokenizerFast:
    """With the layout of RoBERTa's pairs, without token types."""
    tokenizer.backend_tokenizer.post_processor = processors.RobertaProcessing(
        ("[SEP]", tokenizer.sep_token_id), ("[CLS]", tokenizer.cls_token_id)
    )
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    return tokenizer


def of_chats() -> PreTrainedTokenizerFast:
    return chat_tokenizer(tiny_tokenizer(), DialogueLayout.of_tokenizer("blog", tiny_tokenizer()))


@pytest.mark.parametrize("make", [lambda: of_roberta(unigram()), lambda: of_roberta(tiny_tokenizer()), of_chats])
def test_source_and_target_have_types_for_every_program(make, tmp_path):
    tokenizer = make()
    assert 1 not in tokenizer(TEXT, "你好").get("token_type_ids", ())
    seq2seq_tokenizer(tokenizer).save_pretrained(tmp_path)
    opened = AutoTokenizer.from_pretrained(tmp_path)
    budgets = {"max_source_tokens": 99, "max_target_tokens": 99}
    for source, target in ((TEXT, "你好"), (TEXT, None)):
        wanted = encode_source_target(tokenizer, source, target, **budgets)
        found = opened(source, target)
        assert found["input_ids"] == wanted["input_ids"] and found["token_type_ids"] == wanted["token_type_ids"]
    rows = opened([TEXT, "好"], padding=True)
    assert rows["attention_mask"][1][0] == 1 and opened.chat_template is None
    assert seq2seq_tokenizer(opened) is opened


def test_berts_tokenizer_serves_as_it_is_and_one_without_marks_is_refused():
    bert = tiny_tokenizer()
    assert seq2seq_tokenizer(bert) is bert
    with pytest.raises(ValueError, match="needs a tokenizer with \\[CLS\\] and \\[SEP\\]"):
        seq2seq_tokenizer(byte_level_bpe())
