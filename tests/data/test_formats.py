"""Bad rows and damaged files: what is skipped costs one row, what is not is one sentence with file and line."""

from __future__ import annotations

import gzip
import json
import logging
import random

import pyarrow
import pyarrow.parquet
import pytest

from suzoo.data import DataError, Pair, _files, _formats, read_pairs, read_rows, read_texts

ROWS = [{"text1": "a", "text2": "b", "label": 1}, {"text1": "e", "text2": "f", "label": 0}]
PAIRS = [Pair("a", "b", 1.0), Pair("e", "f", 0.0)]
GOOD = [json.dumps(row) for row in ROWS]
HEADER = "text1,text2,label\n"
# name of the file, its content around one bad row, the fault with its line
BAD_ROWS = [
    ("first.jsonl", ['{"text1": "a", "label": 1}', *GOOD], "no column for text2"),
    ("digits.jsonl", [GOOD[0], f'{{"text1": "a", "id": {"9" * 5000}}}', GOOD[1]], "line 2 has a number of thousands"),
    ("deep.jsonl", [GOOD[0], f'{{"x": {"[" * 99999}{"]" * 99999}}}', GOOD[1]], "line 2 is nested too deep"),
    ("half.jsonl", [GOOD[0], '{"text1": "\\ud83d", "text2": "b", "label": 1}', GOOD[1]], "line 2: text1 holds half"),
    ("long.jsonl", [GOOD[0], json.dumps("a" * 3000), GOOD[1]], "line 2 has more than"),
    ("long.jsonl.gz", [GOOD[0], json.dumps("a" * 3000), GOOD[1]], "line 2 has more than"),
    ("digits.json", [f"[{GOOD[0]}", f', {{"text1": "a", "id": {"9" * 5000}}}', f", {GOOD[1]}]"], "row 2 has a number"),
    ("word.json", [f"[{GOOD[0]},", '"a",', f"{GOOD[1]}]"], "row 2 is a str, not an object"),
    ("stray.csv", [f"{HEADER}a,b,1", '"c" x,d,0', "e,f,0"], "line 3 is not csv"),
    ("open.csv", [f"{HEADER}a,b,1", '"c,d,0', "e,f,0"], "line 3 is not csv"),
    ("long.csv", [f"{HEADER}a,b,1", '"c,d,0', "e,f,0", *["x,y,2"] * 500], "line 3 is not csv"),
    (
        "lines.csv",
        [f"{HEADER}a,b,1", '"c,d,0', "e,f,0", *["x,y,2"] * 40],
        "line 3 is not csv .a field of more than 9 l",
    ),
    ("open-bytes.csv", [f"{HEADER}a,b,1", b'"c\xff,d,0', "e,f,0"], "line 3: byte 0xff"),
    ("extra.csv", ["text1,text2,label,,\na,b,1,,", "c,d,0,,x", "e,f,0"], "line 3 has something in a column that"),
    ("fields.csv", [f"{HEADER}a,b,1", "c,d,0,0", "e,f,0"], "line 3 has 4 fields, the header has 3: text1"),
]


@pytest.fixture
def small_limit(monkeypatch):
    monkeypatch.setattr(_files, "MAX_LINE_BYTES", 2048)
    monkeypatch.setattr(_formats, "MAX_LINE_BYTES", 2048)


@pytest.mark.parametrize(("name", "lines", "fault"), BAD_ROWS, ids=[name for name, *_ in BAD_ROWS])
def test_every_bad_row_is_named_or_skipped_alone(tmp_path, caplog, monkeypatch, request, name, lines, fault):
    if name.startswith("long"):
        request.getfixturevalue("small_limit")
    content = b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines)
    if name == "lines.csv":
        monkeypatch.setattr(_formats, "MAX_ROW_LINES", 9)
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    with pytest.raises(DataError, match=fault) as caught:
        read_pairs(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    with caplog.at_level(logging.WARNING):
        assert read_pairs(path, skip_bad_rows=True)[:2] == PAIRS
    assert "skipped 1 bad of" in caplog.text and str(caught.value) in caplog.text


def test_a_column_that_no_row_has_is_not_searched_for_in_the_whole_file(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": "b"}\n' * 99 + f"{GOOD[0]}\n")
    assert read_pairs(path, skip_bad_rows=True) == PAIRS[:1]
    path.write_text('{"a": "b"}\n' * 100 + f"{GOOD[0]}\n")
    with pytest.raises(DataError, match="no column for text1; it has a"):
        read_pairs(path, skip_bad_rows=True)


def test_rows_without_header_are_checked_for_their_number_of_fields(tmp_path):
    path = tmp_path / "x.tsv"
    path.write_text("a\tb\t1\nc\td\ne\tf\t0\n")
    columns = ("text1=0", "text2=1", "label=2")
    with pytest.raises(DataError, match=r"x.tsv line 2 has 2 fields, the first row has 3$"):
        read_pairs(path, columns=columns)
    assert read_pairs(path, columns=columns, skip_bad_rows=True) == PAIRS


@pytest.mark.parametrize("separator", [",", "\t"])
def test_what_spreadsheets_leave_behind_is_dropped_with_a_note(tmp_path, caplog, separator):
    path = tmp_path / ("x.csv" if separator == "," else "x.tsv")
    path.write_text(",,,\ntext1,text2,label,,\na,b,1,,\n,,\n , ,,,\ne,f,0\n".replace(",", separator))
    assert read_pairs(path) == PAIRS
    assert "left out 2 columns without name or content and 3 rows without content" in caplog.text
    # a column without name in another place is somebody's, as pandas' row numbers are
    path.write_text(",text1,text2,label\n0,a,b,1\n1,e,f,0\n".replace(",", separator))
    assert read_pairs(path) == PAIRS
    # the only cell of a row is a cell
    path.write_text('text\na\n""\n')
    assert len(read_rows(path)) == 2


def damaged(content: bytes) -> bytes:
    """gzip with a bit turned so that inflating fails in the middle, and not only the sum at the end."""
    packed = gzip.compress(content)
    for place in range(len(packed) // 2, len(packed) - 10):
        broken = bytearray(packed)
        broken[place] ^= 0xFF
        try:
            gzip.decompress(bytes(broken))
        except OSError:
            continue
        except Exception as error:
            if type(error).__name__ == "error":  # zlib's
                return bytes(broken)
    raise AssertionError("no such place")


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "txt", "parquet"])
@pytest.mark.parametrize("fault", ["flipped", "cut", "sum", "none"])
def test_damaged_gzip_is_refused_in_every_format_whether_or_not_rows_are_skipped(tmp_path, suffix, fault):
    noise = [random.Random(n).randbytes(20).hex() for n in range(3000)]
    rows = [{"text1": text, "text2": "b", "label": 1} for text in noise]
    content = {
        "jsonl": "\n".join(map(json.dumps, rows)),
        "json": json.dumps(rows),
        "csv": HEADER + "\n".join(f"{text},b,1" for text in noise),
        "txt": "\n".join(noise),
        "parquet": "",
    }[suffix].encode()
    if suffix == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "x")
        content = (tmp_path / "x").read_bytes()
    packed = gzip.compress(content)
    path = tmp_path / f"x.{suffix}.gz"
    path.write_bytes(
        {
            "flipped": damaged(content),
            "cut": packed[:-2000],
            "sum": packed[:-8] + b"12345678",
            "none": b"text, and not packed",
        }[fault]
    )
    with pytest.raises(DataError, match=r"x\.\w+\.gz is not a whole gzip file \("):
        read_texts(path, skip_bad_rows=True)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("text", ["text1\ttext2\tlabel\na\tb\t1\n", "一架飞机正在起飞\n" * 3])
def test_utf_16_is_refused_by_name_with_and_without_byte_order_mark(tmp_path, encoding, text):
    path = tmp_path / "x.txt"
    path.write_bytes(text.encode(encoding))
    with pytest.raises(DataError, match=r"x.txt is UTF-16"):
        read_texts(path, skip_bad_rows=True)


def test_a_zero_in_utf_8_is_no_utf_16(tmp_path):
    (tmp_path / "x.txt").write_text("一架\0飞机\nb\n")
    assert read_texts(tmp_path / "x.txt") == ["一架\0飞机", "b"]


@pytest.mark.parametrize("name", ["x.jsonl", "x.csv", "x.parquet", "x.jsonl.gz"])
def test_a_pointer_of_git_lfs_is_refused_by_name(tmp_path, name):
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    with pytest.raises(DataError, match=r"is a pointer of Git LFS.* `git lfs pull`"):
        read_texts(tmp_path / name, skip_bad_rows=True)


def test_names_in_capitals_are_the_same_formats(tmp_path):
    (tmp_path / "X.TXT").write_text("a\n")
    (tmp_path / "Y.TXT.GZ").write_bytes(gzip.compress(b"b\n"))
    assert read_texts(tmp_path / "X.TXT") == ["a"] and read_texts(tmp_path / "Y.TXT.GZ") == ["b"]


@pytest.mark.parametrize("size", [1, 7, 64, 1 << 20])
def test_a_json_list_is_the_same_whatever_is_read_at_once(tmp_path, monkeypatch, size):
    rows = [{"text": f"line\n{n} 文", "n": n, "in": {"a": [1, 2]}} for n in range(50)]
    path = tmp_path / "x.json"
    path.write_text("\ufeff \n" + json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
    monkeypatch.setattr(_formats, "CHUNK", size)
    assert read_rows(path) == rows
    for text, message in [
        ('[\n{"text": "a"}\n{"text": "b"}]', "line 3 is not JSON: a comma"),
        ('[\n{"text": "a"},\n{"text": ', "line 3 is not JSON"),
        ('[\n{"text": "a"},\n', "line 3 is not JSON"),
        ('[{"text": 1}, 2345, {"text": "b"}]', "row 2 is a int"),
    ]:
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            read_rows(path)
    path.write_text("[]")
    with pytest.raises(DataError, match="has no rows"):
        read_rows(path)


def test_bytes_that_are_no_text_are_one_bad_row_of_a_parquet_file(tmp_path):
    texts = pyarrow.array([b"a", b"\xff", b"c"], pyarrow.binary()).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"x.parquet row 2: byte 0xff at position 0 is not UTF-8"):
        read_texts(tmp_path / "x.parquet")
    assert read_texts(tmp_path / "x.parquet", skip_bad_rows=True) == ["a", "c"]
