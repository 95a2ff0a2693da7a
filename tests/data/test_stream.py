"""Rows of a stream: every row once in a pass, over parts, resumed to the next one; bad rows as readers have them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from suzoo.data import DataError, Stream
from suzoo.data.readers import TEXT_ROWS
from suzoo.data.sequences import SEQ2SEQ_ROWS


def write(folder: Path, num_files: int = 3, num_rows: int = 10) -> Path:
    folder.mkdir()
    for number in range(num_files):
        rows = "".join(json.dumps({"text": f"{number} {row}"}) + "\n" for row in range(num_rows))
        name = f"train-{number:05d}-of-{num_files:05d}.jsonl.gz"
        (folder / name).write_bytes(gzip.compress(rows.encode()))
    return folder


@pytest.mark.parametrize("num_parts", [1, 2, 3, 4])
def test_the_parts_of_a_pass_are_all_rows_and_the_next_pass_is_another_order(tmp_path, num_parts):
    stream = Stream([str(write(tmp_path / "x"))], TEXT_ROWS, seed=1)
    everything = sorted(f"{number} {row}" for number in range(3) for row in range(10))
    assert sorted(stream.once(None)) == everything and len(stream.once(7)) == 7
    parts = [stream.part(number, num_parts) for number in range(num_parts)]
    counts = [len(range(number, 30, num_parts)) for number in range(num_parts)]
    passes = [
        [[row for _, row in part.take(count, k)] for part, count in zip(parts, counts, strict=True)] for k in range(2)
    ]
    for rows in passes:
        assert sorted(row for of_part in rows for row in of_part) == everything
    streams = [Stream([str(tmp_path / "x")], TEXT_ROWS, seed=seed) for seed in range(5)]
    orders = {tuple(dict.fromkeys(row[0] for _, row in stream.part(0, 1).take(30, 0))) for stream in streams}
    assert len(orders) > 1  # of the files


@pytest.mark.parametrize("weights", [(), (1, 3)])
def test_the_state_is_plain_and_goes_on_with_the_next_row(tmp_path, weights):
    sources = [str(write(tmp_path / "x")), "embedded:text_zh"]

    def part():
        return Stream(sources, TEXT_ROWS, weights=weights, seed=2).part(1, 2)

    for before in (0, 4, 33):  # at the start, in a file, behind several
        first, again = part(), part()
        first.take(before, 0)
        state = json.loads(json.dumps(first.state()))
        expected = first.take(50, 1)
        again.load(state)
        assert again.take(50, 1) == expected and again.state() == first.state()
    if weights:
        rows = [row for number in range(8) for _, row in part().take(50, number)]
        assert 0.15 < sum(row[1] == " " for row in rows) / len(rows) < 0.35


@pytest.mark.parametrize("weights", [(), (1, 3)])
def test_a_head_has_each_row_once_and_rows_of_all_sources(tmp_path, weights):
    sources = [str(write(tmp_path / name, num_rows=rows)) for name, rows in (("x", 4), ("y", 20))]
    stream = Stream(sources, TEXT_ROWS, weights=weights, num_head=1000)
    assert sorted(stream) == sorted([f"{n} {row}" for rows in (4, 20) for n in range(3) for row in range(rows)])
    if weights:
        numbers = [int(row.split()[1]) for row in stream.part(0, 1).head(10)]
        assert len(numbers) == 10 and max(numbers) > 3


def test_bad_rows_have_the_sentences_of_the_readers(tmp_path, caplog):
    path = tmp_path / "x.jsonl"
    lines = ['{"source": "a"}', "{", *[f'{{"source": "a {n}", "target": "b {n}"}}' for n in range(4)]]
    path.write_text("\n".join([*lines[2:], *lines[:2]]) + "\n")
    part = Stream([str(path)], SEQ2SEQ_ROWS).part(0, 1)
    assert part.take(4, 0)[3][0] == f"{path} line 4"
    with pytest.raises(DataError, match=r"x.jsonl line 5: target is missing"):
        part.take(1, 1)
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match=r"has no column for target"):
        Stream([str(path)], SEQ2SEQ_ROWS)
    stream = Stream([str(path)], SEQ2SEQ_ROWS, skip_bad_rows=True)
    assert [row.source for row in stream.once(None)] == ["a 0", "a 1", "a 2", "a 3"]
    assert "skipped 2 bad of 6 rows; the first: " in caplog.text and "line 1: target is missing" in caplog.text
    assert len(stream.part(0, 1).take(12, 0)) == 8
    path.write_text("{\n" * 3)
    with pytest.raises(DataError, match=r"no good rows; the first fault: .*x.jsonl line 1 is not JSON"):
        Stream([str(path)], SEQ2SEQ_ROWS, skip_bad_rows=True)
    with pytest.raises(DataError, match=r"has no rows for process 3 of 3"):
        path.write_text("\n".join(lines[2:4]) + "\n")
        Stream([str(path)], SEQ2SEQ_ROWS).part(2, 3).take(1, 0)


def test_a_data_set_of_the_hub_streams(tmp_path, monkeypatch):
    import datasets

    from suzoo.data import stream

    rows = [{"text": f"text {number}"} for number in range(40)]
    for shard in range(2):
        datasets.Dataset.from_list(rows[20 * shard :][:20]).to_parquet(tmp_path / f"{shard}.parquet")

    def streamed_dataset(name, split):
        files = {"train": str(tmp_path / "*.parquet")}
        return datasets.load_dataset("parquet", data_files=files, split=split, streaming=True)

    monkeypatch.setattr(stream, "files_of", lambda name, split: None)
    monkeypatch.setattr(stream, "streamed_dataset", streamed_dataset)
    found = Stream(["owner/name"], TEXT_ROWS, split="train")
    assert sorted(found.once(None)) == sorted(row["text"] for row in rows)
    first, again = found.part(1, 2), found.part(1, 2)
    assert first.take(3, 0)[2][0] == "owner/name row 3 of part 2 of 2"
    again.load(json.loads(json.dumps(first.state())))
    assert again.take(30, 1) == first.take(30, 1)


def test_a_url_is_read_without_being_downloaded(tmp_path):
    import fsspec

    with fsspec.open("memory://folder/x.jsonl.gz", "wb") as file:
        file.write(gzip.compress(b'{"text": "a"}\n{"text": "b"}\n'))
    name = "memory://folder/x.jsonl.gz"
    found = Stream([name], TEXT_ROWS).part(0, 1).take(3, 0)
    assert found == [(f"{name} line 1", "a"), (f"{name} line 2", "b"), (f"{name} line 1", "a")]
    with fsspec.open("memory://folder/y.parquet", "wb") as file:
        import datasets

        datasets.Dataset.from_list([{"text": "c"}]).to_parquet(file)
    assert list(Stream(["memory://folder/y.parquet"], TEXT_ROWS, num_head=2)) == ["c"]
    with pytest.raises(DataError, match=r"memory://folder/none.jsonl can't be read .*check the address"):
        Stream(["memory://folder/none.jsonl"], TEXT_ROWS)
