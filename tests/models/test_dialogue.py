"""The dialogue layouts, token by token, and the chat templates that must agree with them."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from suzoo.data.vocabulary import chat_tokenizer, without_inner_spaces
from suzoo.models._dialogue import (
    LAYOUTS,
    SPEAKER_TOKENS,
    DialogueLayout,
    Turn,
    chat_template,
    extend_speaker_types,
    speaker_types,
)
from suzoo.models._tokenizer_files import save_tokenizer
from tests.models.tiny import tiny_tokenizer

CLS, SEP, ONE, TWO = 101, 102, 98, 99
TURNS = [Turn(0, (5, 6)), Turn(1, (7,)), Turn(0, ()), Turn(1, (8, 9))]


def layout(name: str) -> DialogueLayout:
    return DialogueLayout(name, CLS, SEP, (ONE, TWO))


def test_blog():
    tokens = layout("blog").render(TURNS)
    assert tokens.input_ids == [CLS, 5, 6, SEP, 7, SEP, SEP, 8, 9, SEP]
    assert tokens.token_type_ids == [0, 0, 0, 0, 1, 1, 0, 1, 1, 1]
    assert tokens.turn_index == [-1, 0, 0, 0, 1, 1, 2, 3, 3, 3]
    assert layout("blog").render_prompt(TURNS[:1], 1) == layout("blog").render(TURNS[:1])


def test_cdial():
    tokens = layout("cdial").render(TURNS)
    assert tokens.input_ids == [CLS, ONE, 5, 6, TWO, 7, ONE, TWO, 8, 9, SEP]
    assert set(tokens.token_type_ids) == {0}
    assert tokens.turn_index == [-1, -1, 0, 0, -1, 1, -1, -1, 3, 3, 3]
    prompt = layout("cdial").render_prompt(TURNS[:3], 1)
    assert prompt.input_ids == [CLS, ONE, 5, 6, TWO, 7, ONE, TWO]
    assert prompt.turn_index == [-1, -1, 0, 0, -1, 1, -1, -1]


def test_dialogpt():
    tokens = layout("dialogpt").render(TURNS)
    assert tokens.input_ids == [5, 6, SEP, 7, SEP, SEP, 8, 9, SEP]
    assert set(tokens.token_type_ids) == {0}
    assert tokens.turn_index == [0, 0, 0, 1, 1, 2, 3, 3, 3]


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_newest_whole_turns_are_kept_with_their_speakers(name):
    rules = layout(name)
    for budget in range(rules.num_tokens(TURNS[3:]), rules.num_tokens(TURNS) + 1):
        kept = rules.newest(TURNS, budget)
        assert kept == TURNS[len(TURNS) - len(kept) :]
        assert len(rules.render(kept).input_ids) == rules.num_tokens(kept) <= budget
        if len(kept) < 4:  # one more turn would not have fitted
            assert rules.num_tokens(TURNS[3 - len(kept) :]) > budget
    cut = rules.newest(TURNS, rules.num_tokens(TURNS[3:]) - 1)
    assert cut == [Turn(1, (9,))]
    with pytest.raises(ValueError, match="holds no turn"):
        rules.newest(TURNS, rules.num_tokens([Turn(0, ())]))


def test_layouts_refuse_what_they_lack():
    with pytest.raises(ValueError, match="layout is one of"):
        DialogueLayout("qq", CLS, SEP)
    with pytest.raises(ValueError, match=r"\[speaker1\]"):
        DialogueLayout("cdial", CLS, SEP)
    with pytest.raises(ValueError, match=r"starts with \[CLS\]"):
        DialogueLayout("blog", None, SEP)
    assert DialogueLayout("dialogpt", None, SEP).render(TURNS[:1]).input_ids == [5, 6, SEP]


def test_speaker_types_follow_the_separators():
    tokens = layout("blog").render(TURNS)
    ids = torch.tensor([tokens.input_ids, tokens.input_ids])
    types = torch.tensor([tokens.token_type_ids, tokens.token_type_ids])
    assert torch.equal(speaker_types(ids, SEP), types)
    types[1] = 1 - types[1]  # the window starts with the other speaker
    for known in range(1, ids.shape[1] + 1):
        assert torch.equal(extend_speaker_types(ids, types[:, :known], SEP), types)


def test_a_turn_takes_special_tokens_for_plain_text():
    tokenizer = tiny_tokenizer()
    text = "今天[SEP]天气"
    plain = tokenizer.convert_tokens_to_ids(tokenizer.tokenize("今天", split_special_tokens=True))
    turn = Turn.of_text(tokenizer, text, 1)
    assert turn.speaker == 1 and turn.ids[: len(plain)] == tuple(plain)
    assert not {tokenizer.cls_token_id, tokenizer.sep_token_id} & set(turn.ids)
    assert tokenizer.sep_token_id in tokenizer(text, add_special_tokens=False).input_ids  # what it guards against
    assert Turn.of_text(tokenizer, "", 0) == (0, ())


@pytest.mark.parametrize("name", LAYOUTS)
def test_chat_template_writes_the_layout(name, tmp_path):
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"extra_special_tokens": list(SPEAKER_TOKENS)})
    tokenizer.chat_template = chat_template(name)
    without_inner_spaces(tokenizer).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    rules = DialogueLayout.of_tokenizer(name, tokenizer)
    texts = ["今天天气", "很好", "你吃饭了吗"]
    turns = [Turn.of_text(tokenizer, text, n % 2) for n, text in enumerate(texts)]
    messages = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert prompt == rules.render_prompt(turns, 1).input_ids
    finished = tokenizer.apply_chat_template(messages[:2], return_assistant_tokens_mask=True, return_dict=True)
    tokens = rules.render(turns[:2])
    assert finished["input_ids"] == tokens.input_ids
    assert finished["assistant_masks"] == [int(index == 1) for index in tokens.turn_index]
    with pytest.raises(Exception, match="not system"):
        tokenizer.apply_chat_template([{"role": "system", "content": "今"}])


@pytest.fixture(params=LAYOUTS)
def chat(request, tmp_path):
    """(layout, the tokenizer of a chat model, reloaded)."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"extra_special_tokens": list(SPEAKER_TOKENS)})
    rules = DialogueLayout.of_tokenizer(request.param, tokenizer)
    save_tokenizer(chat_tokenizer(without_inner_spaces(tokenizer), rules), tmp_path)
    return rules, AutoTokenizer.from_pretrained(tmp_path)


def test_text_rendered_from_the_template_has_the_ids_of_the_template(chat):
    """langchain and haystack tokenize the rendered text with the tokenizer's defaults."""
    _, tokenizer = chat
    texts = ["今天天气", "  很好 ", "你吃饭了吗"]
    messages = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]
    for options in ({"add_generation_prompt": True}, {}):
        ids = tokenizer.apply_chat_template(messages, **options)["input_ids"]
        assert tokenizer(tokenizer.apply_chat_template(messages, tokenize=False, **options))["input_ids"] == ids
    assert tokenizer("a man")["input_ids"] == tokenizer("a man", add_special_tokens=False)["input_ids"]
    assert tokenizer.padding_side == "left"
    assert (tokenizer.eos_token, tokenizer.bos_token) == ("[SEP]", "[CLS]")
    assert "今天天气很好" in tokenizer.decode(tokenizer("今天天气很好")["input_ids"])


def test_the_mask_of_what_the_assistant_says_holds_for_spaces_and_empty_turns(chat):
    rules, tokenizer = chat
    texts = ["今天", "  很好 ", " a man", "", "x", "  ", "y", "\u3000a man plays\n"]
    messages = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]
    for upto in range(2, len(texts) + 1, 2):
        finished = tokenizer.apply_chat_template(messages[:upto], return_assistant_tokens_mask=True, return_dict=True)
        turns = [Turn.of_text(tokenizer, text, n % 2) for n, text in enumerate(texts[:upto])]
        tokens = rules.render(turns)
        assert finished["input_ids"] == tokens.input_ids
        assert finished["assistant_masks"] == [int(index >= 0 and index % 2 == 1) for index in tokens.turn_index]


def test_a_byte_level_tokenizer_keeps_its_spaces_and_trims_what_the_template_trims(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    backend = tokenizers.ByteLevelBPETokenizer()
    backend.train_from_iterator(["a man plays the flute", "the dog sleeps"], 300, special_tokens=["<end>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend._tokenizer, eos_token="<end>", pad_token="<end>")
    rules = DialogueLayout.of_tokenizer("dialogpt", tokenizer)
    save_tokenizer(chat_tokenizer(tokenizer, rules), tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    messages = [{"role": "user", "content": " a man "}, {"role": "assistant", "content": "  the dog\n"}]
    finished = tokenizer.apply_chat_template(messages, return_assistant_tokens_mask=True, return_dict=True)
    tokens = rules.render([Turn.of_text(tokenizer, m["content"], n) for n, m in enumerate(messages)])
    assert finished["input_ids"] == tokens.input_ids
    assert finished["assistant_masks"] == [int(index == 1) for index in tokens.turn_index]
    assert tokenizer(tokenizer.apply_chat_template(messages, tokenize=False))["input_ids"] == tokens.input_ids
    assert tokenizer.decode(tokens.input_ids) == "a man<end>the dog<end>"
