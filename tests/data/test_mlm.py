"""Masking for masked language models."""

from __future__ import annotations

import copy
import sys

import pytest
import torch

from suzoo.data import DataError, encode_words, masked_batch, segment_chinese, train_wordpiece

WORDS = "我们 昨天 在 百货大楼 买到 了 playthings 和 自行车 非常 高兴".split()  # noqa: SIM905


@pytest.fixture(scope="module")
def tokenizer():
    return train_wordpiece(["".join(WORDS), "play things"] * 3, vocab_size=60)


def masked(tokenizer, examples, seed=0, **options):
    return masked_batch(examples, tokenizer=tokenizer, generator=torch.Generator().manual_seed(seed), **options)


def test_tokens_know_their_word(tokenizer):
    example = encode_words(tokenizer, ["百货大楼", "thingsthings", "了"], max_tokens=32)
    tokens = tokenizer.convert_ids_to_tokens(example["input_ids"])
    assert tokens[0] == "[CLS]" and tokens[-1] == "[SEP]"
    assert tokens[1:5] == list("百货大楼") and example["word_ids"][:5] == [-1, 0, 0, 0, 0]
    pieces = len(tokens) - 7
    assert pieces > 1 and example["word_ids"][5:] == [1] * pieces + [2, -1]
    assert len(encode_words(tokenizer, WORDS, max_tokens=5)["input_ids"]) == 5
    with pytest.raises(ValueError, match="nothing to mask in 0 words"):
        encode_words(tokenizer, [], max_tokens=8)
    with pytest.raises(ValueError, match="cut to 2 tokens"):
        encode_words(tokenizer, WORDS, max_tokens=2)


def test_all_tokens_of_a_word_are_masked_together(tokenizer):
    example = encode_words(tokenizer, WORDS, max_tokens=64)
    word_ids = torch.tensor(example["word_ids"])
    seen = set()
    for seed in range(60):
        labels = masked(tokenizer, [example], seed, probability=0.3)["labels"][0]
        chosen = set(word_ids[labels != -100].tolist())
        assert -1 not in chosen and chosen
        for word in chosen:
            assert (labels[word_ids == word] != -100).all()
        seen |= chosen
    assert seen == set(range(len(WORDS)))


def test_single_tokens_are_masked_when_words_do_not_count(tokenizer):
    example = encode_words(tokenizer, WORDS, max_tokens=64)
    word_ids = torch.tensor(example["word_ids"])
    partly = 0
    for seed in range(20):
        labels = masked(tokenizer, [example], seed, whole_words=False)["labels"][0]
        partly += any(0 < (labels[word_ids == w] != -100).sum() < (word_ids == w).sum() for w in range(len(WORDS)))
    assert partly > 10


@pytest.mark.parametrize("whole_words", [True, False])
def test_shares_are_those_of_bert(tokenizer, whole_words):
    examples = [encode_words(tokenizer, WORDS * 3, max_tokens=128)] * 200
    batch = masked(tokenizer, examples, whole_words=whole_words)
    original = torch.tensor([example["input_ids"] for example in examples])
    chosen = batch["labels"] != -100
    assert torch.equal(batch["labels"][chosen], original[chosen])
    assert torch.equal(batch["input_ids"][~chosen], original[~chosen])
    num_tokens = len(examples[0]["input_ids"]) - 2
    assert chosen.sum(1).max() <= round(0.15 * num_tokens)
    assert chosen.float().sum(1).mean() / num_tokens == pytest.approx(0.15, abs=0.01)
    becomes = batch["input_ids"][chosen]
    is_mask, same = (becomes == tokenizer.mask_token_id).float().mean(), (becomes == original[chosen]).float().mean()
    # a random token may by chance be the mask or the same
    assert is_mask == pytest.approx(0.8, abs=0.03) and same == pytest.approx(0.1, abs=0.03)


@pytest.mark.parametrize(("num_tokens", "num_chosen"), [(1, 1), (9, 1), (12, 2), (16, 2), (17, 3), (31, 5)])
def test_the_share_is_rounded_to_the_nearest(tokenizer, num_tokens, num_chosen):
    """And is one token at least: 15 % of 12 are 1.8."""
    example = encode_words(tokenizer, ["了"] * num_tokens, max_tokens=64)
    labels = masked(tokenizer, [example], whole_words=False)["labels"]
    assert (labels != -100).sum() == num_chosen


def test_a_batch_is_padded_and_padding_is_never_chosen(tokenizer):
    examples = [encode_words(tokenizer, words, max_tokens=64) for words in (WORDS, ["了"], ["昨天", "了"])]
    batch = masked(tokenizer, examples)
    assert {tensor.shape for tensor in batch.values()} == {(3, len(examples[0]["input_ids"]))}
    assert batch["attention_mask"].sum(1).tolist() == [len(example["input_ids"]) for example in examples]
    padding = batch["attention_mask"] == 0
    assert (batch["input_ids"][padding] == tokenizer.pad_token_id).all() and (batch["labels"][padding] == -100).all()
    assert (batch["labels"] != -100).any(1).all()  # one word at least, however short the text


def test_masking_is_dynamic_and_comes_from_the_generator(tokenizer):
    example = encode_words(tokenizer, WORDS, max_tokens=64)
    first, again, other = (masked(tokenizer, [example] * 4, seed) for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["labels"], other["labels"])
    assert len({tuple(row.tolist()) for row in first["labels"]}) > 1  # copies of a text are masked differently


def test_words_by_jieba():
    words = segment_chinese("我们 在自行车上")
    assert "".join(words) == "我们在自行车上" and "自行车" in words and "我们" in words


def test_without_jieba_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "jieba", None)
    with pytest.raises(DataError, match="pip install jieba"):
        segment_chinese("我们")


def test_a_tokenizer_without_mask_is_refused(tokenizer):
    maskless = copy.deepcopy(tokenizer)
    maskless.mask_token = None
    with pytest.raises(ValueError, match=r"a tokenizer with a \[MASK\] token, and this one has none"):
        masked(maskless, [encode_words(tokenizer, WORDS, max_tokens=8)])
