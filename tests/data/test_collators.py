"""Examples and batches of the three models, token by token, and that padding does not change their losses."""

from __future__ import annotations

import logging

import pytest
import torch

from suzoo.data.dialogpt import dialogue_batch, encode_dialogue
from suzoo.data.tokens import pieces
from suzoo.data.tta import encode_sentence, tta_batch
from suzoo.data.unilm import encode_source_target, unilm_batch
from suzoo.models._dialogue import SPEAKER_TOKENS, DialogueLayout, Turn
from tests.models.tiny import tiny, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
JIN, TIAN, QI, HEN, HAO, WO, NI = range(4, 11)
CLS, SEP = 1, 2


def test_source_and_target():
    budgets = {"max_source_tokens": 5, "max_target_tokens": 3}
    example = encode_source_target(TOKENIZER, "今天", "好", **budgets)
    assert example["input_ids"] == [CLS, JIN, TIAN, SEP, HAO, SEP]
    assert example["token_type_ids"] == [0, 0, 0, 0, 1, 1]
    assert example["labels"] == [-100] * 4 + [HAO, SEP]
    # the same tokens as the tokenizer's own pair
    assert example["input_ids"] == TOKENIZER("今天", "好").input_ids
    cut = encode_source_target(TOKENIZER, "今天气很好", "我你今", **budgets)
    assert cut["input_ids"] == [CLS, JIN, TIAN, QI, SEP, WO, NI, SEP]
    prompt = encode_source_target(TOKENIZER, "今天", **budgets)
    assert prompt["input_ids"] == TOKENIZER("今天").input_ids and set(prompt["labels"]) == {-100}
    assert SEP not in encode_source_target(TOKENIZER, "[SEP]", "", **budgets)["input_ids"][1:-2]
    with pytest.raises(ValueError, match="at least 3 and 2"):
        encode_source_target(TOKENIZER, "今", "天", max_source_tokens=2, max_target_tokens=2)


def test_unilm_loss_is_that_of_the_rows():
    budgets = {"max_source_tokens": 9, "max_target_tokens": 9}
    pairs = [("今天气", "很好"), ("我", "你今天很好"), ("今天气很好", "")]
    examples = [encode_source_target(TOKENIZER, *pair, **budgets) for pair in pairs]
    batch = unilm_batch(examples)
    assert batch["labels"].shape == batch["attention_mask"].shape == (3, 9)
    assert (batch["labels"][batch["attention_mask"] == 0] == -100).all()
    model = tiny("unilm", double=False)
    losses = [model(**unilm_batch([example])).loss for example in examples]
    counts = torch.tensor([3.0, 6.0, 1.0])  # target tokens and their [SEP]
    torch.testing.assert_close(model(**batch).loss, (torch.stack(losses) * counts).sum() / counts.sum())


def layout(name: str) -> DialogueLayout:
    return DialogueLayout.of_tokenizer(name, dialogue_tokenizer())


def dialogue_tokenizer():
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"extra_special_tokens": list(SPEAKER_TOKENS)})
    return tokenizer


TALK = ["今天", "好", "我"]
ONE, TWO = 41, 42


@pytest.mark.parametrize(
    ("name", "learn", "ids", "labels"),
    [
        ("blog", None, [CLS, JIN, TIAN, SEP, HAO, SEP, WO, SEP], [-100, JIN, TIAN, SEP, HAO, SEP, WO, SEP]),
        ("blog", "last", [CLS, JIN, TIAN, SEP, HAO, SEP, WO, SEP], [-100] * 6 + [WO, SEP]),
        ("cdial", None, [CLS, ONE, JIN, TIAN, TWO, HAO, ONE, WO, SEP], [-100] * 7 + [WO, SEP]),
        ("cdial", "replies", [CLS, ONE, JIN, TIAN, TWO, HAO, ONE, WO, SEP], [-100] * 5 + [HAO, -100, WO, SEP]),
        ("dialogpt", None, [JIN, TIAN, SEP, HAO, SEP, WO, SEP], [-100] * 3 + [HAO, SEP, WO, SEP]),
        ("dialogpt", "all", [JIN, TIAN, SEP, HAO, SEP, WO, SEP], [JIN, TIAN, SEP, HAO, SEP, WO, SEP]),
    ],
)
def test_dialogues(name, learn, ids, labels):
    example = encode_dialogue(dialogue_tokenizer(), layout(name), TALK, max_tokens=20, learn=learn)
    assert example["input_ids"] == ids and example["labels"] == labels
    assert example["token_type_ids"] == ([0, 0, 0, 0, 1, 1, 0, 0] if name == "blog" else [0] * len(ids))


def test_blog_counts_all_tokens_but_the_first():
    example = encode_dialogue(dialogue_tokenizer(), layout("blog"), TALK, max_tokens=20)
    shifted = example["labels"][1:]
    assert sum(label != -100 for label in shifted) == len(example["input_ids"]) - 1


def test_truncation_keeps_the_newest_turns_and_their_speakers():
    tokenizer, rules = dialogue_tokenizer(), layout("blog")
    example = encode_dialogue(tokenizer, rules, TALK, max_tokens=7)
    assert example["input_ids"] == [CLS, HAO, SEP, WO, SEP]
    assert example["token_type_ids"] == [0, 1, 1, 0, 0]
    backward = encode_dialogue(tokenizer, rules, TALK, max_tokens=7, reverse=True)
    assert backward["input_ids"] == [CLS, WO, SEP, HAO, SEP]
    assert backward["token_type_ids"] == [0, 0, 0, 1, 1]
    assert encode_dialogue(tokenizer, rules, TALK, max_tokens=3)["input_ids"] == [CLS, WO, SEP]
    spaced = encode_dialogue(tokenizer, rules, ["今 天", "好", "我"], max_tokens=20)
    assert spaced == encode_dialogue(tokenizer, rules, TALK, max_tokens=20)
    with pytest.raises(ValueError, match="without turns"):
        encode_dialogue(tokenizer, rules, [], max_tokens=9)
    with pytest.raises(ValueError, match="learn is one of"):
        encode_dialogue(tokenizer, rules, TALK, max_tokens=9, learn="first")


def test_dialogue_loss_is_that_of_the_rows():
    tokenizer = dialogue_tokenizer()
    model = tiny("dialogpt", double=False, layout="blog", vocab_size=43)
    examples = [encode_dialogue(tokenizer, layout("blog"), talk, max_tokens=20) for talk in (TALK, ["今"], ["", "好"])]
    losses = torch.stack([model(**dialogue_batch([example])).loss for example in examples])
    counts = torch.tensor([7.0, 2.0, 3.0])
    torch.testing.assert_close(model(**dialogue_batch(examples)).loss, (losses * counts).sum() / counts.sum())
    assert set(dialogue_batch(examples, token_types=False)) == {"input_ids", "attention_mask", "labels"}
    with pytest.raises(ValueError, match="no examples"):
        dialogue_batch([])


def test_sentences():
    example = encode_sentence(TOKENIZER, "今天气", max_tokens=8)
    assert example["input_ids"] == TOKENIZER("今天气").input_ids
    batch = tta_batch([example, encode_sentence(TOKENIZER, "好", max_tokens=8)])
    assert batch["labels"].tolist() == [[CLS, JIN, TIAN, QI, SEP], [CLS, HAO, SEP, -100, -100]]
    inner = tta_batch([example], learn_special_tokens=False)
    assert inner["labels"].tolist() == [[-100, JIN, TIAN, QI, -100]]
    assert encode_sentence(TOKENIZER, "今天气很好", max_tokens=5)["input_ids"] == [CLS, JIN, TIAN, QI, SEP]
    generator = torch.Generator().manual_seed(0)
    cut = {
        tuple(encode_sentence(TOKENIZER, "今天气很好", max_tokens=5, generator=generator)["input_ids"][1:-1])
        for _ in range(20)
    }
    assert cut == {(JIN, TIAN, QI), (QI, HEN, HAO)}
    with pytest.raises(ValueError, match="leaves no room"):
        encode_sentence(TOKENIZER, "今", max_tokens=2)


@pytest.mark.parametrize("num_texts", [1, 20])  # one by one, and through the backend
def test_texts_that_are_cut_later_are_not_warned_of(num_texts):
    tokenizer, warned = tiny_tokenizer(), []
    tokenizer.model_max_length = 4
    handler = logging.Handler()
    handler.emit = warned.append
    logger = logging.getLogger("transformers")
    before = logger.level
    logger.setLevel(logging.WARNING)  # commands that ran in this process have made it quiet
    logger.addHandler(handler)
    try:
        text = "今天天气真好今天天气真好"
        assert pieces(tokenizer, [text] * num_texts)[0] == list(Turn.of_text(tokenizer, text, 0).ids)
        assert not warned
        tokenizer(text)
        assert warned
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
