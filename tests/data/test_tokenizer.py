"""Tokenizers trained from a corpus."""

from __future__ import annotations

import subprocess
import sys

import pytest
import sentencepiece
from transformers import AutoTokenizer, BertTokenizer

from suzoo.data import DataError, embedded, read_texts
from suzoo.data import tokenizer as tokenizers

TEXTS = [*read_texts("embedded:pairs_en", max_rows=300), *read_texts("embedded:pairs_zh", max_rows=300)]
ODD = [
    "",
    "  two   spaces ",
    "ＡＢＣ full width",
    "Émile's café\tand\nline",
    "unseen: 龘 ☃ qzx",
    "两本书 and 2 books",
    "[MASK]",
]
TRAIN = {"wordpiece": tokenizers.train_wordpiece, "unigram": tokenizers.train_unigram}


@pytest.fixture(scope="module", params=TRAIN)
def tokenizer(request):
    return TRAIN[request.param](TEXTS, vocab_size=600)


def test_the_folder_loads_as_it_was_saved(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again.get_vocab() == tokenizer.get_vocab() and again.model_max_length == 512
    for text in TEXTS + ODD:
        assert again(text, text[:5]).data == tokenizer(text, text[:5]).data
        assert again.decode(again(text)["input_ids"]) == tokenizer.decode(tokenizer(text)["input_ids"])


def test_a_pair_has_bert_s_layout(tokenizer):
    encoded = tokenizer("two books", "三本书")
    tokens = tokenizer.convert_ids_to_tokens(encoded["input_ids"])
    middle = tokens.index("[SEP]")
    assert tokens[0] == "[CLS]" and tokens[-1] == "[SEP]" and tokens.count("[SEP]") == 2
    assert encoded["token_type_ids"] == [0] * (middle + 1) + [1] * (len(tokens) - middle - 1)
    assert tokenizer.convert_tokens_to_ids(list(tokenizers.SPECIAL_TOKENS)) == [0, 1, 2, 3, 4]
    assert tokenizer.pad_token_id == 0 and tokenizer.mask_token == "[MASK]"
    assert tokenizer.mask_token_id in tokenizer("a [MASK] b")["input_ids"]


def test_nothing_of_the_corpus_is_unknown_and_the_vocabulary_keeps_its_size(tokenizer):
    assert len(tokenizer) <= 600
    assert sorted(tokenizer.get_vocab().values()) == list(range(len(tokenizer)))
    assert not any(tokenizer.unk_token_id in ids for ids in tokenizer(TEXTS)["input_ids"])


def test_wordpiece_splits_chinese_into_characters_and_keeps_frequent_words_whole():
    tokenizer = tokenizers.train_wordpiece(TEXTS, vocab_size=600)
    assert isinstance(tokenizer, BertTokenizer)
    assert tokenizer.tokenize("小明把Books还给 ALICE") == ["小", "明", "把", "books", "还", "给", "alice"]
    assert "Alice" in tokenizers.train_wordpiece(TEXTS, vocab_size=600, lowercase=False).tokenize("Alice")
    # no word of Chinese is longer than a character
    assert not [token for token in tokenizer.get_vocab() if len(token) > 1 and any("一" <= c <= "鿿" for c in token)]


def test_wordpiece_gives_the_rarest_characters_up_when_there_is_no_room():
    tokenizer = tokenizers.train_wordpiece(["aaba", "baab c d"], vocab_size=10)
    assert set(tokenizer.get_vocab()) == {*tokenizers.SPECIAL_TOKENS, "a", "##a", "b", "##b", "c"}
    assert tokenizer.tokenize("aab c d") == ["a", "##a", "##b", "c", "[UNK]"]


def test_unigram_equals_sentencepiece():
    model = tokenizers._train_sentencepiece(TEXTS, vocab_size=600, lowercase=True)
    theirs = sentencepiece.SentencePieceProcessor(model_proto=model)
    ours = tokenizers._tokenizer_of(model, 512)
    for text in [*TEXTS, *(text for text in ODD if text != "[MASK]")]:
        assert ours(text, add_special_tokens=False)["input_ids"] == theirs.encode(text), text
        assert (
            ours.decode(theirs.encode(text)).replace("[UNK]", " ⁇ ").split()
            == theirs.decode(theirs.encode(text)).split()
        )


def test_unigram_keeps_long_lines_and_pieces_of_several_characters():
    tokenizer = tokenizers.train_unigram(["昨天上星期今早" * 1000, "前年"] * 2, vocab_size=40)
    assert (
        "上星期" in "".join(tokenizer.tokenize("上星期"))
        and tokenizer.unk_token_id not in tokenizer("上星期")["input_ids"]
    )
    assert any(len(token.strip("▁")) > 1 for token in tokenizer.get_vocab() if token not in tokenizers.SPECIAL_TOKENS)


def test_training_is_the_same_in_every_process():
    """The hash maps below `tokenizers` have another order in every process: without care the numbers change."""
    program = (
        "import sys\n"
        "from suzoo.data import tokenizer as t\n"
        "texts = sys.stdin.read().splitlines()\n"
        "print(sorted(t.train_wordpiece(texts, vocab_size=150).get_vocab().items()))\n"
        "print(t.train_unigram(texts, vocab_size=300).backend_tokenizer.to_str())\n"
    )
    texts = read_texts("embedded:pairs_en", max_rows=200)
    there = subprocess.run(
        [sys.executable, "-c", program], input="\n".join(texts), capture_output=True, check=True, encoding="utf-8"
    )
    vocab = tokenizers.train_wordpiece(texts, vocab_size=150).get_vocab()
    unigram = tokenizers.train_unigram(texts, vocab_size=300).backend_tokenizer.to_str()
    assert there.stdout.splitlines() == [str(sorted(vocab.items())), unigram]


def test_embedded_tokenizer_covers_its_corpus():
    tokenizer = embedded.tokenizer("zh")
    for name in ("pairs_zh", "titles_zh", "typos_zh", "dialogues_zh"):
        texts = [text for row in embedded.load(name, "dev") for text in embedded.texts_of(row)]
        assert not any(tokenizer.unk_token_id in ids for ids in tokenizer(texts)["input_ids"]), name
    with pytest.raises(DataError, match="no embedded corpus is in 'fr'; there are en and zh"):
        embedded.tokenizer("fr")


@pytest.mark.parametrize("train", TRAIN.values(), ids=TRAIN)
def test_no_text_or_no_room_is_one_sentence(train):
    for texts in ([], ["", "  "]):
        with pytest.raises(DataError, match="no text to train"):
            train(texts)
    with pytest.raises(DataError, match=r"vocab_size|cannot train") as caught:
        train(["some text"], vocab_size=3)
    assert "\n" not in str(caught.value)
