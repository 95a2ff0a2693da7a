"""Rows that go by in blocks are those that are read one by one, and whatever is odd is said in the same sentence."""

from __future__ import annotations

import csv
import gzip
import json
import logging
import os
import random
from functools import partial

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from suzoo.data import (
    DataError,
    _files,
    _sources,
    fingerprint,
    read_classes,
    read_dialogues,
    read_pairs,
    read_seq2seq,
    read_texts,
    readers,
)
from suzoo.data.duplicates import LAYOUTS
from suzoo.data.fingerprints import Fingerprint

TEXTS = ["a", "b c", "汉字", 'say "hi"', "x, y", " z ", "U+2028 \u2028 ", "\u3000é", "0", "tab\\t", "two\nlines"]
# values that the readers refuse, or take in a way of their own
ODD_TEXTS = ["", "  ", "\ud83d", None, 5, ["a"], "\ufeffa", "a\rb", '"', 'a" b']
ODD_LABELS = ["", "x", "nan", "1e999", None, True, [1], "neutral", " 2 ", "1_0"]


def pair(rng: random.Random, text, odd: bool) -> dict:
    row = {"text1": text(rng), "text2": text(rng), "label": rng.choice([0, 1, 2.5, "3", 4.0])}
    if odd:
        row[rng.choice(list(row))] = rng.choice(ODD_TEXTS + ODD_LABELS)
    return row


def inference(rng: random.Random, text, odd: bool) -> dict:
    row = {"premise": text(rng), "hypothesis": text(rng), "label": rng.choice(["neutral", "Entailment", "矛盾 "])}
    if odd:
        row[rng.choice(list(row))] = rng.choice(ODD_TEXTS + ODD_LABELS)
    return row


def triple(rng: random.Random, text, odd: bool) -> dict:
    row = {name: text(rng) for name in ("query", "positive", "negative")}
    if odd:
        row[rng.choice(list(row))] = rng.choice([*ODD_TEXTS, ["a", "b"], []])
    return row


def title(rng: random.Random, text, odd: bool) -> dict:
    row = {"text": text(rng), "title": text(rng), "other": rng.choice([None, 3])}
    if odd:
        row[rng.choice(list(row))] = rng.choice(ODD_TEXTS)
    return row


def classified(rng: random.Random, text, odd: bool) -> dict:
    row = {"text": text(rng), "label": rng.choice(["yes", " no", 7])}
    if odd:
        row[rng.choice(list(row))] = rng.choice([*ODD_TEXTS, True, 1.5, ["a", "a"], ["a", "b"], []])
    return row


def turns(rng: random.Random, text, odd: bool) -> dict:
    said = [text(rng) for _ in range(rng.randint(2, 4))]
    if odd and rng.random() < 0.5:
        said[rng.randrange(len(said))] = rng.choice(ODD_TEXTS)
    return {"turns": rng.choice([[], ["a"], "a", None, said, [*said, {"role": "x"}]]) if odd else said}


def messages(rng: random.Random, text, odd: bool, names=("role", "content")) -> dict:
    said = [{names[0]: "AB"[n % 2], names[1]: text(rng)} for n in range(rng.randint(2, 4))]
    if odd:
        message = rng.choice(said)
        kind = rng.randrange(4)
        if kind == 0:
            message[names[rng.randrange(2)]] = rng.choice([*ODD_TEXTS, "B"])
        elif kind == 1:
            said.insert(0, {"role": "system", "content": "x"})
        elif kind == 2:
            message.pop(names[rng.randrange(2)])
        else:
            said[:] = rng.choice([[], ["a", "b"], [message, "b"], said[:1]])
    return {"messages": said}


def in_table(row: dict, delimiter: str) -> dict:
    """Its values as texts that a table can hold."""
    texts = {name: "" if value is None else str(value).replace("\ud83d", "?") for name, value in row.items()}
    return texts if delimiter == "," else {name: text.replace("\n", " ") for name, text in texts.items()}


def write(path, rows: list[dict], rng: random.Random, ragged: bool) -> None:
    end = rng.choice(["\n", "\r\n"])
    if path.suffix == ".jsonl":
        lines = [json.dumps(row, ensure_ascii="\\ud83d" in str(row)) for row in rows]
    elif path.suffix == ".txt":
        lines = [str(next(iter(row.values()))).replace("\n", " ").replace("\ud83d", "?") for row in rows]
    else:
        delimiter = "," if path.suffix == ".csv" else "\t"
        table = [in_table(row, delimiter) for row in rows]
        fields = [list(table[0]), *(list(row.values()) for row in table)]
        if delimiter == ",":
            with (path.parent / "x").open("w", newline="") as file:
                csv.writer(file, lineterminator="\n").writerows(fields)
            lines = (path.parent / "x").read_bytes().decode().removesuffix("\n").split("\n")
        else:
            lines = ["\t".join(values) for values in fields]
    if ragged:
        for _ in range(2):
            odd = ["", " ", ",,", "\t\t", "a,b", "a\tb", '"c" x,d,0', '"c,d,0', "[1]", '{"a": 1}{', "{} ", "x" * 900]
            lines.insert(rng.randrange(1, len(lines) + 1), rng.choice(odd))
    content = (end.join(lines) + rng.choice(["", end])).encode()
    content = rng.choice([b"", b"\xef\xbb\xbf"]) + content
    if ragged and rng.random() < 0.3:
        place = rng.randrange(len(content) // 2, len(content))
        content = content[:place] + rng.choice([b"\xff", b"\x00"]) + content[place:]
    path.write_bytes(gzip.compress(content) if path.name.endswith(".gz") else content)


KINDS = [
    (read_pairs, pair, ("jsonl", "csv", "tsv")),
    (read_pairs, inference, ("jsonl", "csv", "tsv")),
    (read_pairs, triple, ("jsonl", "csv", "tsv")),
    (read_texts, title, ("jsonl", "csv", "tsv", "txt")),
    (read_texts, pair, ("jsonl", "csv")),
    (read_seq2seq, title, ("jsonl", "csv", "tsv")),
    (read_classes, classified, ("jsonl", "csv", "tsv")),
    (read_dialogues, turns, ("jsonl",)),
    (read_dialogues, messages, ("jsonl",)),
    (read_dialogues, partial(messages, names=("from", "value")), ("jsonl",)),
]
CASES = [(*kind[:2], suffix) for kind in KINDS for suffix in kind[2]]


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(_files, "FIRST_BYTES", 60)
    monkeypatch.setattr(_files, "BLOCK_BYTES", 400)


def told(read, path, caplog, **options) -> tuple[object, list[str]]:
    caplog.clear()
    try:
        rows = read(path, **options)
    except DataError as error:
        return str(error), caplog.messages
    return (list(rows), list(rows.sizes)), caplog.messages


@pytest.mark.parametrize(
    ("read", "make", "suffix"),
    CASES,
    ids=lambda part: part if isinstance(part, str) else getattr(part, "__name__", "other_names"),
)
def test_blocks_give_what_rows_give(small, tmp_path, monkeypatch, caplog, read, make, suffix):
    caplog.set_level(logging.INFO)
    by_blocks = readers._as_a_whole
    taken = []

    def counted(*arguments):
        found = by_blocks(*arguments)
        taken.append(found is not None)
        return found

    num_read = 0
    for seed in range(int(os.environ.get("SUZOO_SEEDS", "12"))):
        rng = random.Random(seed)
        texts = TEXTS if rng.random() < 0.5 else TEXTS[:3]
        rate = rng.choice([0, 0, 0.02, 0.2])
        rows = [make(rng, lambda rng, texts=texts: rng.choice(texts), rng.random() < rate) for _ in range(60)]
        path = tmp_path / f"{seed}.{suffix}"
        write(path, rows, rng, ragged=rng.random() < 0.3)
        for options in ({}, {"skip_bad_rows": True}, {"max_rows": 41, "skip_bad_rows": True}):
            monkeypatch.setattr(readers, "_as_a_whole", counted)
            found = told(read, path, caplog, **options)
            monkeypatch.setattr(readers, "_as_a_whole", lambda *_: None)
            assert found == told(read, path, caplog, **options), (seed, options)
            num_read += isinstance(found[0], tuple)
    assert num_read >= 12 and 0.1 < sum(taken) / len(taken) < 0.9  # neither way is the rule by accident


@pytest.mark.parametrize("make", [pair, inference, triple, title, classified, turns])
def test_parquet_and_the_hub_too(tmp_path, monkeypatch, make):
    read = {turns: read_dialogues, title: read_seq2seq, classified: read_classes}.get(make, read_pairs)
    rng = random.Random(0)
    rows = [make(rng, lambda rng: rng.choice(TEXTS), False) for _ in range(300)]
    rows = [{name: value if isinstance(value, list) else str(value) for name, value in row.items()} for row in rows]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "x.parquet", row_group_size=50)
    monkeypatch.setattr(_sources, "HUB_ROWS", 64)
    monkeypatch.setattr(_sources, "_load", lambda *_, **options: datasets.Dataset.from_list(rows))
    sources = [tmp_path / "x.parquet", "owner/name"]
    found = [read(source) for source in sources]
    monkeypatch.setattr(readers, "_as_a_whole", lambda *_: None)
    assert found[0] == found[1] == read(sources[0]) == read(sources[1])


def test_class_names_of_the_hub_in_blocks(monkeypatch):
    features = datasets.Features(
        {
            "premise": datasets.Value("string"),
            "hypothesis": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["entailment", "neutral", "contradiction"]),
        }
    )
    rows = [{"premise": f"p{n}", "hypothesis": f"h{n}", "label": n % 4 - 1 if n > 50 else n % 3} for n in range(100)]
    monkeypatch.setattr(_sources, "HUB_ROWS", 10)
    monkeypatch.setattr(_sources, "_load", lambda *_, **options: datasets.Dataset.from_list(rows, features=features))
    found = read_pairs("owner/name", skip_bad_rows=True)
    assert [row.label for row in found] == [2.0 - row["label"] for row in rows if row["label"] >= 0]
    with pytest.raises(DataError, match="owner/name row 53: label is missing"):
        read_pairs("owner/name")


def test_the_fingerprint_of_columns_is_that_of_rows(tmp_path):
    rng = random.Random(1)
    for read, make in ((read_pairs, pair), (read_seq2seq, title), (read_classes, classified), (read_dialogues, turns)):
        rows = [make(rng, lambda rng: rng.choice([*TEXTS, "\\ \x00\x7f\u2028😀"]), False) for _ in range(50)]
        path = tmp_path / "x.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        found = read(path)
        layout = LAYOUTS[type(found[0])]
        digest = Fingerprint()
        digest.add(layout.json_lines(layout.columns_of(found)))
        assert digest.hexdigest() == fingerprint(found)


def test_what_comes_before_damage_is_read_first(tmp_path):
    lines = [json.dumps({"text": f"{n} {random.Random(n).random()}"}) for n in range(3000)]
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(lines).encode())[:-3000])
    assert len(read_texts(path, max_rows=1500)) == 1500
    with pytest.raises(DataError, match="not a whole gzip file"):
        read_texts(path)
    lines[1400] = json.dumps({"text": 5})
    path.write_bytes(gzip.compress("\n".join(lines).encode())[:-3000])
    with pytest.raises(DataError, match="line 1401: text is not a text but 5"):
        read_texts(path)
