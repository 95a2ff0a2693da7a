"""Many sources: patterns, folders of shards under usual names, URLs, lists; a set of shards is whole or refused."""

from __future__ import annotations

import functools
import http.server
import threading
from pathlib import Path

import pytest

from suzoo.data import DataError, read_texts

UUID = "0f4e3c1a-1b2c-4d5e-8f90-0123456789ab"
HASH = "-1a2b3c4d5e6f7a8b"


def fill(folder: Path, *names: str) -> Path:
    """Files whose only text is their name."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'{{"text": "{name}"}}\n')
    return folder


@pytest.mark.parametrize(
    "names",
    [
        [f"train-0000{n}-of-00003.jsonl" for n in range(3)],
        [f"data/train-0000{n}-of-00002{HASH}.jsonl" for n in range(2)],
        [f"c4-train.0000{n}-of-00002.json" for n in range(2)],
        [f"part-0000{n}-{UUID}-c000.json" for n in range(2)],
        [f"train/part-r-0000{n}.jsonl" for n in range(2)],
        [f"part-00000-{UUID}-c000.json", f"part-00000-{UUID}-c001.json"],
        ["train_9.jsonl", "train_10.jsonl", *(f"train_{n}.jsonl" for n in range(1, 9))],
        ["0000.jsonl", "0001.jsonl"],
        ["shard.00.jsonl", "shard.01.jsonl"],
        ["train0.jsonl", "train1.jsonl"],
        ["train1.JSONL"],
    ],
    ids=lambda names: names[0],
)
def test_a_folder_of_shards_is_read_in_the_order_of_their_numbers(tmp_path, names):
    fill(tmp_path, *names, ".part-00000.crc.json", "_metadata.json", "dev-00000-of-00001.jsonl", "validation.jsonl")
    (tmp_path / "README.md").touch()
    found = read_texts(tmp_path)
    assert sorted(found) == sorted(names)
    numbers = [int("".join(filter(str.isdigit, name.split("-of-")[0].split("-c00")[0]))[:9]) for name in found]
    assert numbers == sorted(numbers)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train-00000-of-00003.jsonl", "train-00002-of-00003.jsonl"], "2 of 3 shards: number 1 is missing"),
        (["train-00000-of-00001.jsonl", "train-00000-of-00002.jsonl"], "shards of different sets"),
        ([f"train-00000-of-00001{HASH}.jsonl", "train-00000-of-00001.jsonl"], "the same shard twice"),
        ([f"part-00000-{UUID}.json", f"part-00000-{UUID[:-1]}c.json"], "the same shard twice"),
        (["part-00000.json", "part-00002.json"], "number 1 is missing"),
        (["train_1.jsonl", "train_3.jsonl"], "number 2 is missing"),
        (["part-00003.json"], "number 1 is missing"),
        (["train.jsonl", "train-00001.jsonl"], "several files"),
        (["train-00000-of-00001.jsonl", "train-00000-of-00001.csv"], "several files"),
        (["validation-00000-of-00001.jsonl"], "no split 'train'; it has validation"),
        (["news.2019.jsonl", "news.2020.jsonl"], "no split 'train'"),
        (["pairs.jsonl"], "no split 'train'; it has pairs"),
        ([], "no split 'train'; it has none"),
    ],
)
def test_a_set_of_shards_that_is_not_whole_is_refused(tmp_path, names, message):
    with pytest.raises(DataError, match=message) as caught:
        read_texts(fill(tmp_path, *names))
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_spark_may_leave_out_empty_parts_if_it_says_that_it_succeeded(tmp_path):
    fill(tmp_path, "part-00000.json", "part-00002.json")
    (tmp_path / "_SUCCESS").touch()
    assert read_texts(tmp_path) == ["part-00000.json", "part-00002.json"]


def test_a_pattern_gives_its_files_and_whole_sets_of_shards(tmp_path):
    fill(tmp_path, "b.jsonl", "a.jsonl", "x-00000-of-00002.jsonl", "x-00001-of-00002.jsonl", "notes.md")
    assert read_texts(f"{tmp_path}/*") == [
        "a.jsonl",
        "b.jsonl",
        "x-00000-of-00002.jsonl",
        "x-00001-of-00002.jsonl",
    ]
    (tmp_path / "x-00000-of-00002.jsonl").unlink()
    with pytest.raises(DataError, match="1 of 2 shards: number 0 is missing"):
        read_texts(f"{tmp_path}/*.jsonl")
    with pytest.raises(DataError, match="no file like"):
        read_texts(f"{tmp_path}/*.tsv")


def test_several_sources_are_read_one_after_the_other_each_by_its_own_columns(tmp_path):
    fill(tmp_path, "a.jsonl")
    (tmp_path / "b.tsv").write_text("sentence1\tsentence2\tx\nb\tc\t1\n")
    sources = (tmp_path / "a.jsonl", str(tmp_path / "b.tsv"))
    assert read_texts(sources) == ["a.jsonl", "b", "c"]
    assert read_texts(sources, max_rows=1) == ["a.jsonl"]
    (tmp_path / "b.tsv").write_text("a\tb\n1\t2\n")
    with pytest.raises(DataError, match=r"b.tsv has no column for text"):
        read_texts(sources)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """URL of a server of the files in tmp_path/www."""
    import datasets

    pytest.importorskip("aiohttp")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "DOWNLOADED_DATASETS_PATH", tmp_path / "downloads")
    (tmp_path / "www").mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format, *args):
            pass

    handler = functools.partial(Quiet, directory=str(tmp_path / "www"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()


def test_a_url_is_downloaded_once_and_named_in_messages(tmp_path, server):
    fill(tmp_path / "www", "a.jsonl")
    assert read_texts(f"{server}/a.jsonl?download=true") == ["a.jsonl"]
    (tmp_path / "www/b.jsonl").write_text('{"text": 1}\n')
    with pytest.raises(DataError, match=rf"{server}/b.jsonl line 1: text is not a text"):
        read_texts(f"{server}/b.jsonl")
    with pytest.raises(DataError, match=r"c.jsonl cannot be downloaded .*check the address"):
        read_texts(f"{server}/c.jsonl")


def test_stores_that_fsspec_knows(tmp_path, monkeypatch):
    import datasets
    import fsspec

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "DOWNLOADED_DATASETS_PATH", tmp_path)
    memory = fsspec.filesystem("memory")
    try:
        for number in (0, 1):
            memory.pipe(f"/store/data/train-0000{number}-of-00002.jsonl", b'{"text": "%d"}\n' % number)
        assert read_texts("memory://store") == ["0", "1"]
        assert read_texts("memory://store/data/*.jsonl") == ["0", "1"]
        memory.rm("/store/data/train-00001-of-00002.jsonl")
        with pytest.raises(DataError, match="1 of 2 shards"):
            read_texts("memory://store")
        with pytest.raises(DataError, match="no folder memory://nowhere"):
            read_texts("memory://nowhere")
    finally:
        memory.rm("/store", recursive=True)
    with pytest.raises(DataError, match="nostore:// can't be read"):
        read_texts("nostore://x/y.jsonl*")
    with pytest.raises(DataError, match=r"s3:// needs a package|s3://.* cannot be downloaded"):
        read_texts("s3://bucket/x.jsonl")
