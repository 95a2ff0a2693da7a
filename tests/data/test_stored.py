"""Rows and tokens of the cache are those of memory; they are written once, by one process, and whole."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import time
from pathlib import Path

import numpy as np
import pytest

from suzoo.data import (
    DataError,
    StoredRows,
    check_labels,
    encode_dialogues,
    encode_sentences,
    encode_sources_targets,
    encode_word_lists,
    fingerprint,
    numbers,
    read_classes,
    read_dialogues,
    read_pairs,
    read_seq2seq,
    read_texts,
    readers,
    stored,
    token_ids,
    tokenize_rows,
    tokenizer_key,
    tokens,
    train_wordpiece,
)
from suzoo.models._dialogue import DialogueLayout


def text(number: int) -> str:
    return f"text {number} " + "文字" * (number % 7)


N = 50
ROWS = {
    read_pairs: [{"text1": text(n), "text2": text(n + 1), "label": n % 5} for n in range(N)],
    read_texts: [{"text": text(n)} for n in range(N)],
    read_seq2seq: [{"source": text(n), "target": text(n + 1)} for n in range(N)],
    read_classes: [{"text": text(n), "label": [str(n % 3), "x"]} for n in range(N)],
    read_dialogues: [{"turns": [text(n + turn) for turn in range(2 + n % 3)]} for n in range(N)],
}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Everything goes through the cache, in batches of 7 rows."""
    monkeypatch.setenv("SUZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(readers, "IN_MEMORY_BYTES", 0)
    monkeypatch.setattr(stored, "BATCH_ROWS", 7)
    monkeypatch.setattr(tokens, "CHUNK", 11)
    monkeypatch.setattr(stored, "BATCH_BYTES", 1000)
    return tmp_path / "cache"


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("read", ROWS, ids=lambda read: read.__name__)
def test_rows_of_the_cache_are_those_of_memory(cache, tmp_path, monkeypatch, read):
    path = write(tmp_path / "x.jsonl", ROWS[read])
    found = read(path)
    monkeypatch.setattr(readers, "IN_MEMORY_BYTES", 1 << 30)
    expected = read(path)
    assert isinstance(expected, list) and isinstance(found, StoredRows)
    assert list(found) == expected and len(found) == N
    assert [found[n] for n in range(-N, N)] == 2 * expected
    for part in (slice(3), slice(5, 23), slice(-3, None), slice(40, 2), slice(0, 50, 9), slice(7, 14)):
        assert found[part] == expected[part]
    assert found[:1] + found[1:] == expected and type(found[0]) is type(expected[0])
    with pytest.raises(IndexError):
        found[N]
    assert fingerprint(found) == fingerprint(expected)
    if read is read_pairs:
        assert (numbers(found, "label") == numbers(expected, "label")).all()
        check_labels(found)


def test_the_second_start_reads_no_rows_and_says_what_the_first_said(cache, tmp_path, monkeypatch, caplog):
    path = write(tmp_path / "x.jsonl", [*ROWS[read_texts], {"text": 5}])
    first = read_texts(path, skip_bad_rows=True)
    assert "skipped 1 bad of 51 rows; the first: " in caplog.text
    caplog.clear()
    monkeypatch.setattr(readers, "_converted", None)  # would fail
    elsewhere = path.rename(tmp_path / "y.jsonl")  # the content counts, not the name
    assert read_texts(elsewhere, skip_bad_rows=True).path == first.path
    assert "skipped 1 bad of 51 rows" in caplog.text
    monkeypatch.undo()


def test_other_content_columns_or_options_are_other_files(cache, tmp_path):
    rows = [{"a": "x", "b": "y", "label": 1}, {"a": "x", "b": "z", "label": 0}]
    path = write(tmp_path / "x.jsonl", rows)
    paths = {read_pairs(path, columns=("text1=a", "text2=b")).path}
    paths.add(read_pairs(path, columns=("text1=b", "text2=a")).path)
    paths.add(read_pairs(path, columns=("text1=a", "text2=b"), skip_bad_rows=True).path)
    paths.add(read_pairs([path, path], columns=("text1=a", "text2=b")).path)
    paths.add(read_texts(path, columns=("text=a",)).path)
    write(path, rows[::-1])
    paths.add(read_pairs(path, columns=("text1=a", "text2=b")).path)
    assert len(paths) == 6


def test_a_bad_row_leaves_nothing_in_the_cache(cache, tmp_path):
    path = write(tmp_path / "x.jsonl", [*ROWS[read_texts], {"text": 5}])
    with pytest.raises(DataError, match=rf"x.jsonl line {N + 1}: text is not a text"):
        read_texts(path)
    assert not [p for p in cache.rglob("*") if p.is_file() and p.suffix != ".lock"]
    with pytest.raises(DataError, match="has no rows"):
        read_texts(write(tmp_path / "y.jsonl", []))


def test_a_damaged_file_of_the_cache_is_named(cache, tmp_path):
    path = write(tmp_path / "x.jsonl", ROWS[read_texts])
    file = read_texts(path).path
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(DataError, match=rf"{file}, a file of the cache, is damaged .*delete it"):
        read_texts(path)


def _read_in_a_process(path: Path, start, answers) -> None:
    calls = []
    original = readers._converted

    def counted(*arguments):
        calls.append(1)
        time.sleep(0.3)  # the others wait
        return original(*arguments)

    readers._converted = counted
    start.wait()
    rows = read_texts(path)
    answers.put((len(calls), len(rows)))


def test_one_of_several_processes_writes(cache, tmp_path):
    path = write(tmp_path / "x.jsonl", ROWS[read_texts])
    context = multiprocessing.get_context("fork")
    start, answers = context.Event(), context.Queue()
    processes = [context.Process(target=_read_in_a_process, args=(path, start, answers)) for _ in range(3)]
    for process in processes:
        process.start()
    start.set()
    found = sorted(answers.get(timeout=60) for _ in processes)
    for process in processes:
        process.join()
    assert found == [(0, N), (0, N), (1, N)]


@pytest.fixture(scope="module")
def tokenizer():
    return train_wordpiece([text(n) for n in range(N)], vocab_size=60)


def encoders(tokenizer):
    layout = DialogueLayout.of_tokenizer("blog", tokenizer)
    return {
        read_texts: lambda rows, first: encode_sentences(tokenizer, rows, first, max_tokens=9, seed=3),
        read_dialogues: lambda rows, first: encode_dialogues(tokenizer, layout, rows, max_tokens=20),
        read_seq2seq: lambda rows, first: encode_sources_targets(
            tokenizer,
            [row.source for row in rows],
            [row.target for row in rows],
            max_source_tokens=9,
            max_target_tokens=5,
        ),
        read_classes: lambda rows, first: encode_word_lists(
            tokenizer, [row.text.split() for row in rows], max_tokens=9
        ),
    }


@pytest.mark.parametrize("num_workers", [1, 3])
@pytest.mark.parametrize("read", [read_texts, read_dialogues, read_seq2seq, read_classes], ids=lambda r: r.__name__)
def test_tokens_of_the_cache_are_those_of_memory(cache, tmp_path, monkeypatch, tokenizer, read, num_workers):
    rows = read(write(tmp_path / "x.jsonl", ROWS[read]))
    encode = encoders(tokenizer)[read]
    whole = encode(list(rows), 0)
    found = tokenize_rows(rows, encode, key=[tokenizer_key(tokenizer)], num_workers=num_workers)
    in_memory = tokenize_rows(list(rows), encode, key=[])
    assert len(found) == len(in_memory) == N and found.names == list(whole)
    for name, column in whole.items():
        for examples in (found, in_memory):
            assert [examples[n][name].tolist() for n in range(N)] == column
    assert found.lengths().tolist() == [len(ids) for ids in whole["input_ids"]]
    assert found[0]["input_ids"].dtype == np.int32
    assert len(list(cache.rglob("tokens/*.arrow"))) == num_workers

    def fails(rows, first):
        raise AssertionError("they are in the cache")

    tokenize_rows(rows, fails, key=[tokenizer_key(tokenizer)], num_workers=2)
    with pytest.raises(AssertionError):
        tokenize_rows(rows, fails, key=["another"], num_workers=num_workers)


def test_the_key_of_a_tokenizer_is_what_it_does(tokenizer):
    key = tokenizer_key(tokenizer)
    again = pickle.loads(pickle.dumps(tokenizer))
    again("a b", truncation=True, max_length=3, padding="max_length")
    assert tokenizer_key(again) == key
    again.add_tokens(["文字"])
    assert tokenizer_key(again) != key
    assert tokenizer_key(train_wordpiece(["a b"], vocab_size=60)) != key
    assert tokenizer_key(train_wordpiece([text(n) for n in range(N)], vocab_size=60)) == key


def test_ids_of_many_texts_are_those_that_the_tokenizer_gives(tokenizer):
    texts = ["", "[SEP] x", "a" * 300, *(text(n) for n in range(N))]
    for side in ("right", "left"):
        other = pickle.loads(pickle.dumps(tokenizer))
        other.truncation_side = side
        other(texts, padding="max_length", max_length=7, truncation=True)  # which leaves its traces in the backend
        for length in (5, 100):
            expected = [tokenizer.__class__.__call__(other, one, truncation=True, max_length=length) for one in texts]
            assert token_ids(other, texts, length) == [found["input_ids"] for found in expected]
        options = {"add_special_tokens": False, "split_special_tokens": True}
        assert tokens.pieces(other, texts) == [other(one, **options)["input_ids"] for one in texts]
        assert token_ids(other, texts[:2], 9) == [other(one)["input_ids"] for one in texts[:2]]  # and back


def test_the_cache_lies_where_it_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("SUZOO_CACHE", "~/x")
    assert stored.cache_folder() == Path(os.path.expanduser("~/x"))
    monkeypatch.delenv("SUZOO_CACHE")
    assert stored.cache_folder().name == "suzoo"


def mapped(path: Path) -> int:
    """Bytes of a file that count as memory of this process."""
    found, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0]:
            inside = line.endswith(str(path))
        elif inside and line.startswith("Rss:"):
            found += 1024 * int(line.split()[1])
    return found


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="asks Linux")
def test_rows_that_are_read_here_and_there_do_not_fill_the_memory(tmp_path, monkeypatch):
    """A file of 32 MB, of which every row is looked at alone; opening it touches little of it."""
    monkeypatch.setenv("SUZOO_CACHE", str(tmp_path))
    texts = [f"{number:08}" * 1000 for number in range(4000)]
    rows = stored.store("x.arrow", stored.TEXT, lambda: ([[text]] for text in texts), lambda: {"sizes": [len(texts)]})
    size = rows.path.stat().st_size
    assert size > 30 << 20 and len(rows.batches) <= size / stored.BATCH_BYTES + 1
    assert mapped(rows.path) < 4 << 20
    most = 0
    for number in range(len(rows)):
        assert rows[number] == texts[number]
        most = max(most, mapped(rows.path)) if number % 500 == 0 else most
    assert most < 12 << 20
