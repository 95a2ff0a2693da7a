"""Readers: every format and layout, and a clear sentence for every mistake."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import logging
import os
import random

import pyarrow
import pyarrow.parquet
import pytest

from suzoo.data import (
    DataError,
    Pair,
    Ranked,
    check_labels,
    fingerprint,
    parse_columns,
    read_pairs,
    read_ranked,
    read_rows,
    read_texts,
)
from suzoo.data._sources import class_of
from suzoo.data._values import NLI_CLASSES

ROWS = [
    {"text1": "一架飞机", "text2": 'a "plane", it is', "label": 5},
    {"text1": "line\u2028separator", "text2": "naïve 😀", "label": 0.5},
    {"text1": "three", "text2": "3", "label": 2},
]
PAIRS = [
    Pair("一架飞机", 'a "plane", it is', 5.0),
    Pair("line\u2028separator", "naïve 😀", 0.5),
    Pair("three", "3", 2.0),
]


def write(path, text: str, encoding: str = "utf-8"):
    data = text.encode(encoding)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def write_table(path, rows=ROWS):
    """The rows in the format that the name of the path says."""
    suffix = path.name.removesuffix(".gz").rpartition(".")[2]
    if suffix == "parquet":
        pyarrow.parquet.write_table(
            pyarrow.Table.from_pylist([{**row, "label": float(row["label"])} for row in rows]), path
        )
        if path.suffix == ".gz":
            path.write_bytes(gzip.compress(path.read_bytes()))
        return path
    if suffix == "jsonl":
        return write(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    if suffix == "json":
        return write(path, json.dumps(rows, indent=1))
    if suffix == "tsv":
        return write(
            path, "".join("\t".join(map(str, row)) + "\n" for row in [list(rows[0]), *(r.values() for r in rows)])
        )
    with gzip.open(path, "wt") if path.suffix == ".gz" else path.open("w") as file:  # newlines as csv writes them
        csv.writer(file).writerows([list(rows[0]), *(row.values() for row in rows)])
    return path


@pytest.mark.parametrize("gz", ["", ".gz"])
@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "tsv", "parquet"])
def test_every_format_gives_the_same_pairs(tmp_path, suffix, gz):
    path = write_table(tmp_path / f"x.{suffix}{gz}")
    assert read_pairs(path) == PAIRS
    assert read_pairs(str(path), max_rows=2) == PAIRS[:2]


def test_windows_files_are_read_as_others(tmp_path):
    path = write(tmp_path / "x.tsv", "\ufefftext1\ttext2\tlabel\r\na\tb\t1\r\n\r\nc\td\t0\r\n")
    assert read_pairs(path) == [Pair("a", "b", 1.0), Pair("c", "d", 0.0)]


def test_a_quotation_mark_is_a_character_in_tsv_and_a_quote_in_csv(tmp_path):
    assert read_pairs(write(tmp_path / "x.tsv", 'text1\ttext2\tlabel\n"a\tb"\t1\n')) == [Pair('"a', 'b"', 1.0)]
    assert read_pairs(write(tmp_path / "x.csv", 'text1,text2,label\n"a,\nb",c,1\n')) == [Pair("a,\nb", "c", 1.0)]


def test_a_file_without_header_is_read_by_column_numbers(tmp_path):
    path = write(tmp_path / "x.tsv", "7\ta\tb\t1\n8\tc\td\t0\n")
    assert read_pairs(path, columns=("text1=1", "text2=2", "label=3")) == [Pair("a", "b", 1.0), Pair("c", "d", 0.0)]


def test_a_folder_gives_the_file_of_the_split(tmp_path):
    write_table(tmp_path / "stsb.train.tsv")
    write_table(tmp_path / "stsb.validation.jsonl.gz", ROWS[:2])
    write(tmp_path / "README.md", "about")
    assert read_pairs(tmp_path) == PAIRS
    assert read_pairs(tmp_path, split="dev") == PAIRS[:2]
    with pytest.raises(DataError, match=r"no split 'test'; it has .*validation"):
        read_pairs(tmp_path, split="test")
    write_table(tmp_path / "other.train.tsv")
    with pytest.raises(DataError, match=r"split 'train' .* files: other.train.tsv, stsb.train.tsv; name one"):
        read_pairs(tmp_path, split="train")


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        ("sentence1\tsentence2\tscore", None),
        ("sentence_A\tsentence_B\trelatedness_score", None),
        ("Premise\tHypothesis\tgold_label", {"score": "gold_label"}),
        ("text\ttext2\tlabel", ("text1=text",)),
        ("a\tb\tc", {"text1": "a", "text2": "b", "label": "c"}),
        # a named column is not also guessed for another field
        ("label\ttext2\tscore", ("text1=label", "label=score")),
    ],
)
def test_columns_are_recognised_or_named(tmp_path, header, columns):
    path = write(tmp_path / "x.tsv", f"{header}\na\tb\t2\nc\td\t0\n")
    assert read_pairs(path, columns=columns) == [Pair("a", "b", 2.0), Pair("c", "d", 0.0)]


def test_classes_of_inference_are_graded(tmp_path):
    lines = ["a\tb\tENTAILMENT", "c\td\tneutral", "e\tf\t矛盾"]
    path = write(tmp_path / "x.tsv", "premise\thypothesis\tlabel\n" + "\n".join(lines))
    assert [pair.label for pair in read_pairs(path)] == [2.0, 1.0, 0.0]


def test_numbers_as_classes_of_inference_are_refused_for_their_order_is_not_known(tmp_path):
    path = write(tmp_path / "x.tsv", "premise\thypothesis\tlabel\na\tb\t0\nc\td\t2\n")
    with pytest.raises(DataError, match=r"line 2: .*order is not known.*score=label"):
        read_pairs(path)
    assert [pair.label for pair in read_pairs(path, columns=("score=label",))] == [0.0, 2.0]


def test_shards_of_a_split_are_read_one_after_the_other(tmp_path):
    write_table(tmp_path / "train-00001-of-00002.parquet", ROWS[2:])
    write_table(tmp_path / "train-00000-of-00002.parquet", ROWS[:2])
    write_table(tmp_path / "validation-00000-of-00001.parquet", ROWS[:2])
    assert read_pairs(tmp_path) == PAIRS
    assert read_pairs(tmp_path, split="dev") == PAIRS[:2]


def test_triples_become_two_pairs(tmp_path):
    rows = [{"anchor": "q", "pos": "p", "neg": "n"}]
    assert read_pairs(write_table(tmp_path / "x.jsonl", rows)) == [Pair("q", "p", 1.0), Pair("q", "n", 0.0)]
    rows = [{"sent0": "q", "sent1": "p", "hard_neg": "n"}]  # SimCSE's file
    assert read_pairs(write_table(tmp_path / "z.jsonl", rows)) == [Pair("q", "p", 1.0), Pair("q", "n", 0.0)]
    rows = [{"query": "q", "positives": ["p", "r"], "negatives": ["n"]}]
    assert read_pairs(write_table(tmp_path / "y.jsonl", rows)) == [
        Pair("q", "p", 1.0),
        Pair("q", "r", 1.0),
        Pair("q", "n", 0.0),
    ]


def test_ranked_puts_rows_of_a_query_together(tmp_path, caplog):
    path = write(tmp_path / "x.tsv", "query\tpos\tneg\nq\tp\tn\nr\ts\tp\nq\tp\tm\nq\tm2\tn\n")
    assert read_ranked(path) == [Ranked("q", ("p", "m2"), ("n", "m")), Ranked("r", ("s",), ("p",))]
    # known to belong to the query: no negative of it, whatever another row says
    path = write(tmp_path / "y.tsv", "query\tpos\tneg\nq\tp\tn\nq\tn\tm\n")
    assert read_ranked(path) == [Ranked("q", ("p", "n"), ("m",))]
    path = write(tmp_path / "z.tsv", "text1\ttext2\tlabel\nq\tp\t1\nr\ts\t0\nq\tn\t0\n")
    assert read_ranked(path) == [Ranked("q", ("p",), ("n",))]
    assert "left out 1 of 2 queries" in caplog.text
    with pytest.raises(DataError, match=r"line 3: label must be 0 or 1 to rank texts, not '3'"):
        read_ranked(write(tmp_path / "w.tsv", "text1\ttext2\tlabel\nq\tp\t1\nr\ts\t3\n"))
    with pytest.raises(DataError, match="no query with a positive"):
        read_ranked(write(tmp_path / "v.tsv", "text1\ttext2\tlabel\nq\tp\t0\nr\ts\t0\n"))


def test_rows_keep_other_columns_and_rename_ours(tmp_path):
    path = write(tmp_path / "x.tsv", "id\ttext\tlabel\n1\ta\tx\n2\tb\ty\n")
    assert read_rows(path) == [{"id": "1", "text": "a", "label": "x"}, {"id": "2", "text": "b", "label": "y"}]
    # their `text` makes way for ours
    assert read_rows(path, columns=("text=label",)) == [{"id": "1", "text": "x"}, {"id": "2", "text": "y"}]
    with pytest.raises(DataError, match=r"no column for title; it has id, text, label: name one by --columns title="):
        read_rows(path, required=("title",))


def test_texts_are_lines_columns_or_all_texts_of_pairs(tmp_path):
    assert read_texts(write(tmp_path / "x.txt", "a\n\nb b\n")) == ["a", "b b"]
    path = write(tmp_path / "x.tsv", "title\ttext\na\tb\nc\td\n")
    assert read_texts(path) == ["b", "d"]
    assert read_texts(path, columns=("text=title",)) == ["a", "c"]
    assert read_texts(write_table(tmp_path / "x.jsonl"))[:2] == ["一架飞机", 'a "plane", it is']
    with pytest.raises(DataError, match="no column for text"):
        read_texts(write(tmp_path / "y.tsv", "title\tabstract\na\tb\n"))


HEADER = "text1\ttext2\tlabel\n"
# file name, its content, what the message must say
FAULTY_FILES = [
    ("x.doc", "a", r"known format: .*\.jsonl"),
    ("empty.tsv", "", "has no rows"),
    ("header.tsv", HEADER, "has no rows"),
    ("empty.jsonl", "\n\n", "has no rows"),
    ("broken.jsonl", '{"text1": "a", "text2": "b", "label": 1}\n{"text1": \n', "line 2 is not JSON"),
    ("list.jsonl", '["a", "b", 1]\n', "line 1 is a JSON list, not an object"),
    ("broken.json", '[\n{"text1": }]', "line 2 is not JSON"),
    ("gb.tsv", (HEADER + "a\tb\t1\n中文\tb\t1\n").encode("gb18030"), "line 3: byte 0xd6 .* GB18030"),
    ("wide.tsv", (HEADER + "a\tb\t1\n").encode("utf-16"), "UTF-16"),
    ("cut.tsv.gz", gzip.compress(random.Random(0).randbytes(9000).hex().encode())[:-2000], "not a whole gzip"),
    ("x.parquet", "nonsense", "not a parquet file"),
    ("fields.tsv", HEADER + "a\tb\t1\na\tb\n", "line 3 has 2 fields, the header has 3: text1"),
    ("quote.csv", 'text1,text2,label\n"a,b,1\n', "line 2 is not csv"),
    ("twice.tsv", "text1\ttext1\tlabel\na\tb\t1\n", "more than one column named 'text1'"),
    ("word.tsv", HEADER + "a\tb\tyes\n", "line 2: label is neither a number nor .*'yes'"),
    ("mixed.tsv", HEADER + "a\tb\t1\na\tb\tneutral\n", "line 3: label is a class, .* number"),
    ("nan.tsv", HEADER + "a\tb\tnan\n", "line 2: label is nan"),
    ("inf.jsonl", '{"text1": "a", "text2": "b", "label": Infinity}', "line 1: label is inf"),
    ("label.jsonl", '{"text1": "a", "text2": "b", "label": [1]}', "line 1: label is neither"),
    ("blank.tsv", HEADER + "a\t \t1\n", "line 2: text2 is empty"),
    ("number.jsonl", '{"text1": 5, "text2": "b", "label": 1}', "line 1: text1 is not a text but 5"),
    (
        "key.jsonl",
        '{"text1": "a", "text2": "b", "label": 1}\n{"text1": "a", "label": 1}',
        "line 2: text2 is missing",
    ),
    ("half.jsonl", '{"text1": "a", "text2": "b\\ud83d", "label": 1}', "line 1: text2 holds half a character"),
    ("large.jsonl", f'{{"text1": "a", "text2": "b", "label": 1{"0" * 400}}}', "line 1: label is neither a number"),
    ("null.jsonl", '{"text1": "a", "text2": null, "label": 1}', "line 1: text2 is missing"),
    (
        "misspelt.tsv",
        "sentense1\tsentence2\tscore\na\tb\t1\n",
        r"no column for text1 \(did you mean 'sentense1'",
    ),
    (
        "labels.tsv",
        "text1\ttext2\trelatedness\tentailment\na\tb\t1\tneutral\n",
        "could be label: choose by --columns label=relatedness or label=entailment",
    ),
    ("layouts.tsv", HEADER[:-1] + "\tanchor\tpos\tneg\na\tb\t1\tc\td\te\n", "pairs or triples"),
]


def test_a_csv_cell_may_be_long(tmp_path):
    text = "a" * 200_000
    (tmp_path / "long.csv").write_text(f'text1,text2,label\n"{text}",b,1\n')
    assert read_pairs(tmp_path / "long.csv")[0].text1 == text


@pytest.mark.parametrize(("name", "content", "message"), FAULTY_FILES, ids=[name for name, *_ in FAULTY_FILES])
def test_what_is_wrong_with_a_file_is_one_sentence_that_says_where(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(DataError, match=message) as caught:
        read_pairs(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("trian.tsv", {}, r"no file or folder trian.tsv \(did you mean 'train.tsv'"),
        ("./data", {}, "no file or folder"),
        ("train.tsv", {"split": "dev"}, "is one file, so it has no split 'dev'"),
        ("train.tsv", {"columns": ("text1=txt1",)}, r"no column 'txt1' for text1 \(did you mean 'text1'"),
        ("train.tsv", {"columns": ("txt1=text1",)}, r"no field 'txt1' \(did you mean 'text1'"),
        ("train.tsv", {"columns": ("text1",)}, "takes field=column"),
        ("train.tsv", {"max_rows": 0}, "max_rows must be 1 or more"),
        ("embedded:pairs_z", {}, r"no embedded corpus 'pairs_z' \(did you mean 'pairs_zh'"),
        ("embedded:pairs_zh", {"split": "test"}, "no split 'test'; its splits are train and dev"),
    ],
)
def test_what_is_wrong_with_a_call_is_one_sentence(tmp_path, monkeypatch, source, options, message):
    monkeypatch.chdir(tmp_path)
    write_table(tmp_path / "train.tsv")
    assert read_pairs("train.tsv", split="train") == PAIRS
    with pytest.raises(DataError, match=message) as caught:
        read_pairs(source, **options)
    assert "\n" not in str(caught.value)


def test_a_pipe_is_refused_in_one_sentence(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match=r"pipe is neither a file nor a folder: .* write what .* to a file"):
        read_pairs(tmp_path / "pipe")


def test_skipped_rows_are_counted_and_reported(tmp_path, caplog):
    lines = [b"text1\ttext2\tlabel", b"a\tb\t1", b"a\tb\tx", b"a\tb", b"\xd6\xd0\tb\t1", b"c\td\t0", b"e\tf\t0"]
    path = tmp_path / "x.tsv"
    path.write_bytes(b"\n".join(lines))
    with caplog.at_level(logging.WARNING):
        assert read_pairs(path, skip_bad_rows=True) == [Pair("a", "b", 1.0), Pair("c", "d", 0.0), Pair("e", "f", 0.0)]
    assert "skipped 3 bad of 6 rows" in caplog.text and "line 3: label is neither" in caplog.text
    assert len(read_pairs(path, skip_bad_rows=True, max_rows=2)) == 2
    path.write_bytes(b"\n".join(lines[:1] + lines[2:5]))
    with pytest.raises(DataError, match=r"no good rows; the first fault: .* line 2"):
        read_pairs(path, skip_bad_rows=True)


def test_a_csv_row_with_broken_bytes_is_one_bad_row(tmp_path, caplog):
    path = tmp_path / "x.csv"
    path.write_bytes(b'text1,text2,label\na,b,1\n"\xd6\xd0",b,1\nc,d,0\n')
    with pytest.raises(DataError, match=r"x.csv line 3: byte 0xd6"):
        read_pairs(path)
    assert read_pairs(path, skip_bad_rows=True) == [Pair("a", "b", 1.0), Pair("c", "d", 0.0)]


def test_labels_without_an_order_are_refused():
    check_labels([Pair("a", "b", 0.0), Pair("a", "b", 1.0)])
    with pytest.raises(DataError, match=r"all 2 pairs of x.tsv have the label 1: .*right column"):
        check_labels([Pair("a", "b", 1.0), Pair("c", "d", 1.0)], "x.tsv")
    with pytest.raises(DataError, match=r"has 1 sentence pair\(s\)"):
        check_labels([Pair("a", "b", 1.0)])
    with pytest.raises(DataError, match=r"has 0 sentence pair\(s\)"):
        check_labels([])


def test_parse_columns_refuses_what_hides_a_typo():
    assert parse_columns(("text1=a=b", "label=c")) == {"text1": "a=b", "label": "c"}
    with pytest.raises(DataError, match="names the field 'text1' twice"):
        parse_columns(("text1=a", "text1=b"))
    with pytest.raises(DataError, match="not the string"):
        parse_columns("text1=a")


def test_fingerprint_is_of_the_content():
    assert fingerprint(PAIRS) == fingerprint(tuple(PAIRS)) != fingerprint(PAIRS[::-1])
    assert fingerprint([{"a": 1, "b": 2}]) == fingerprint([{"b": 2, "a": 1}])
    assert len({fingerprint(rows) for rows in ([], ["ab"], ["a", "b"], [["a", "b"]], [{"a": "b"}], PAIRS)}) == 6
    assert fingerprint(["一"]) == hashlib.sha256('"一"\n'.encode()).hexdigest()


class ProtocolError(Exception):
    """As httpx has it: neither an OSError nor one of datasets' errors."""


class TestHub:
    """`datasets` is replaced: what is tested is what we make of its answers."""

    @pytest.fixture
    def hub(self, monkeypatch):
        import datasets

        nli = datasets.Features(
            {
                "premise": datasets.Value("string"),
                "hypothesis": datasets.Value("string"),
                "label": datasets.ClassLabel(names=["entailment", "neutral", "contradiction"]),
            }
        )
        rows = {"premise": ["a", "c", "e", "g"], "hypothesis": ["b", "d", "f", "h"], "label": [0, 1, 2, -1]}
        calls = []

        def names(repo, config):
            if repo == "no/such":
                raise datasets.exceptions.DatasetNotFoundError(
                    "Dataset 'no/such' doesn't exist on the Hub\nor is private"
                )
            if repo == "no/network":
                raise ConnectionError("Couldn't reach 'no/network' on the Hub")
            if repo == "no/answer":
                raise ProtocolError("Server disconnected without sending a response.")
            return ["train", "validation"]

        def load(repo, config, split, streaming=False):
            assert not streaming
            calls.append((repo, config, split))
            return datasets.Dataset.from_dict(rows, features=nli)

        monkeypatch.setattr("suzoo.data._sources.why_unreachable", lambda *_: None)
        monkeypatch.setattr(datasets, "get_dataset_split_names", names)
        monkeypatch.setattr(datasets, "load_dataset", load)
        return calls

    def test_class_numbers_get_their_names(self, hub):
        pairs = read_pairs("owner/nli:all", split="dev", max_rows=3)
        assert hub == [("owner/nli", "all", "validation")]
        assert [pair.label for pair in pairs] == [2.0, 1.0, 0.0]
        with pytest.raises(DataError, match="owner/nli row 4: label is missing"):
            read_pairs("owner/nli")
        assert len(read_pairs("owner/nli", skip_bad_rows=True)) == 3

    def test_two_classes_of_inference_are_not_taken_for_numbers(self):
        """GLUE's RTE has entailment first: as numbers, what follows would be the least alike."""
        names = ["entailment", "not_entailment"]
        assert [NLI_CLASSES[class_of(value, names)] for value in (0, 1)] == [2.0, 0.0]
        assert [class_of(value, ["not_equivalent", "equivalent"]) for value in (0, 1, -1, None)] == [0, 1, None, None]

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            (
                "no/such",
                r"cannot be loaded \(Dataset 'no/such' doesn't exist on the Hub\): check the name and the network",
            ),
            ("no/network", "Couldn't reach"),
            ("no/answer", r"cannot be loaded \(Server disconnected"),
            ("owner/nli:x", "no split 'test'; it has train, validation"),
        ],
    )
    def test_what_the_hub_does_not_have_is_one_sentence(self, hub, name, message):
        with pytest.raises(DataError, match=message) as caught:
            read_pairs(name, split="test")
        assert "\n" not in str(caught.value)
