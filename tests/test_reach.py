"""A name that is no folder: a machine without a network says so at once, a slow or busy Hub is waited for."""

from __future__ import annotations

import socket

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import close_session

from suzoo import reach
from suzoo.cli import main
from suzoo.data import DataError, read_pairs
from suzoo.reach import check_folder_or_hub, split_of_dev, why_unreachable
from tests.hub.server import LoopbackHub
from tests.ranks import free_port


@pytest.fixture
def waited(tmp_path, monkeypatch) -> list[float]:
    """The seconds that were slept between attempts; nothing is in the cache, and nobody listens at the address."""
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    seconds: list[float] = []
    monkeypatch.setattr(reach.time, "sleep", seconds.append)
    close_session()  # made by another test while it was offline
    return seconds


def test_without_a_network_the_sentence_comes_after_two_attempts(waited, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts.txt").write_text("今天天气很好\n", encoding="utf-8")
    (tmp_path / "pairs.tsv").write_text("text1\ttext2\tlabel\n")
    for command in (["encode", "out/quikstart", "texts.txt", "--output", "a.npy"], ["chat", "quikstart"]):
        assert main(command) == 2
        said = capsys.readouterr().err
        assert f"there is no folder {command[1]} here, and http://127.0.0.1:" in said and "Connection refused" in said
        assert said.count("\n") == 1
    monkeypatch.setenv("LANGUAGE", "zh_CN")
    assert main(["score", "quikstart", "texts.txt"]) == 2 and "这里没有文件夹 quikstart" in capsys.readouterr().err
    with pytest.raises(DataError, match=r"owner/pairs is no local file .*cannot be reached \(.*refused"):
        read_pairs("owner/pairs")
    assert waited == [0, 1] * 4


def test_what_can_be_no_name_of_the_hub_is_not_asked_for(waited, tmp_path):
    for name in ("a/b/c", "./a", "/a", "~/a"):
        with pytest.raises(ValueError, match=f"there is no folder {name}"):
            check_folder_or_hub(name)
    (tmp_path / "model.onnx").touch()
    with pytest.raises(ValueError, match="is a file and not the folder of a model"):
        check_folder_or_hub(str(tmp_path / "model.onnx"))
    check_folder_or_hub(str(tmp_path))
    assert waited == []


def test_the_hub_is_left_to_its_library_where_it_answers_or_is_not_needed(waited, tmp_path, monkeypatch):
    (tmp_path / "cache/models--owner--name").mkdir(parents=True)
    assert why_unreachable("owner/name", "model") is None and why_unreachable("owner/name", "dataset")
    waited.clear()
    with monkeypatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert why_unreachable("owner/name", "model") is None
        with pytest.raises(ValueError, match="there is no folder a/b here, and HF_HUB_OFFLINE keeps it from"):
            check_folder_or_hub("a/b")
    assert waited == []
    with LoopbackHub({}) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        for how in ("503", "drop before reading"):
            hub.fail_next(".*", how, 1)
            assert why_unreachable("a/b", "model") is None
    with socket.socket() as silent:  # which takes connections and says nothing
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.1)
        assert why_unreachable("a/b", "model") is None
    assert waited == [0, 0, 0]


def test_dev_data_that_has_splits_is_read_from_its_dev_split(tmp_path):
    rows = '{"text": "好", "label": "a"}\n'
    for name in ("both/train.jsonl", "both/validation.jsonl", "deep/data/dev-0.jsonl", "parts/part-0-of-1.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(rows)
    whole = ["both/train.jsonl", "parts", "parts/*.jsonl", "both/*.jsonl"]
    assert [split_of_dev(str(tmp_path / name)) for name in whole] == [None] * 4
    assert [split_of_dev(str(tmp_path / name)) for name in ("both", "deep")] == ["dev"] * 2
    assert split_of_dev("embedded:pairs_zh") == split_of_dev("owner/pairs") == split_of_dev("s3://a/b") == "dev"
    assert split_of_dev("https://example.org/dev.tsv.gz") is None
