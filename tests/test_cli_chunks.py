"""Commands in chunks: what comes out does not depend on kills and resumes, nor on where the chunks end."""

from __future__ import annotations

import argparse
import json
import shutil

import numpy as np
import pytest
from pyarrow import parquet

from suzoo.cli import _chunks, encoders, language_models, main
from tests.test_cli import cross_encoder_folder, encoder_folder, fails
from tests.test_cli_language_models import folders

__all__ = ["cross_encoder_folder", "encoder_folder", "folders"]  # fixtures

TEXTS = ["a man sleeps", "今天天气很好", "", "a man", "今天", "a man sleeps", "天气 a", "b"] * 2


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(encoders, "CHUNK", 3)
    monkeypatch.setattr(encoders, "ROW_GROUP_CHUNKS", 2)


@pytest.fixture
def commands(encoder_folder, cross_encoder_folder, folders, tmp_path):
    """name -> (arguments without output, formats)"""
    (tmp_path / "in.txt").write_text("".join(f"{text}\n" for text in TEXTS), encoding="utf-8")
    rows = [{"query": text, "documents": TEXTS[: place % 4], "id": place} for place, text in enumerate(TEXTS)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    texts = str(tmp_path / "in.txt")
    return {
        "encode": (["encode", str(encoder_folder), texts], (".npy", ".jsonl", ".parquet")),
        "rerank": (["rerank", str(cross_encoder_folder), "--input", str(tmp_path / "in.jsonl")], (".jsonl",)),
        "score": (["score", str(folders["tta"]), texts, "--batch-size", "1"], (".jsonl", ".tsv")),
        "summarize": (
            ["summarize", str(folders["unilm"]), texts, "--batch-size", "1", "--max-new-tokens", "4"],
            (".jsonl", ".txt"),
        ),
    }


class Killed(BaseException):
    """What nothing catches, as a kill."""


@pytest.mark.parametrize("command", ["encode", "rerank", "score", "summarize"])
def test_a_run_that_was_killed_three_times_writes_the_same_bytes(commands, tmp_path, monkeypatch, capsys, command):
    arguments, formats = commands[command]
    monkeypatch.setattr(language_models, "BATCHES_PER_CHUNK", 3)
    for suffix in formats:
        whole, out = tmp_path / f"whole{suffix}", tmp_path / f"out{suffix}"
        assert main([*arguments, "--output", str(whole)]) == 0
        said = capsys.readouterr().err.replace("whole", "out")
        for number, last_words in enumerate(["os.fsync", "os.replace", "os.fsync"]):
            with monkeypatch.context() as patch:
                calls = []

                def kill(*_, calls=calls, number=number):
                    calls.append(1)
                    if len(calls) > number:
                        raise Killed

                original = _chunks.Growing.add

                def add(self, *rest, original=original, patch=patch, last_words=last_words, kill=kill):
                    if self.rows >= 3 * (number + 1):  # noqa: B023
                        patch.setattr(last_words, kill)
                    original(self, *rest)

                patch.setattr(_chunks.Growing, "add", add)
                with pytest.raises(Killed):
                    main([*arguments, "--output", str(out), "--resume"])
            assert not out.exists() and (tmp_path / f".out{suffix}.progress").exists()
        capsys.readouterr()
        assert main([*arguments, "--output", str(out), "--resume"]) == 0
        assert out.read_bytes() == whole.read_bytes() and capsys.readouterr().err == said
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_chunks_are_in_the_order_of_the_input_in_every_format(commands, encoder_folder, tmp_path):
    from suzoo.models import CoSENTModel

    expected = CoSENTModel.from_pretrained(encoder_folder).encode(TEXTS)
    arguments, formats = commands["encode"]
    for suffix in formats:
        assert main([*arguments, "--output", str(tmp_path / f"out{suffix}")]) == 0
    vectors = np.load(tmp_path / "out.npy", mmap_mode="r")
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    np.save(tmp_path / "saved.npy", vectors)
    assert (tmp_path / "saved.npy").read_bytes() == (tmp_path / "out.npy").read_bytes()
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    file = parquet.ParquetFile(tmp_path / "out.parquet")
    assert file.num_row_groups == 3
    table = file.read().to_pydict()
    assert table["text"] == [line["text"] for line in lines] == TEXTS
    assert (np.array(table["embedding"], np.float32) == vectors).all()
    assert (np.array([line["embedding"] for line in lines], np.float32) == vectors).all()


def test_no_texts_give_an_empty_file_of_the_format(encoder_folder, tmp_path):
    (tmp_path / "in.txt").touch()
    for suffix in (".npy", ".jsonl", ".parquet"):
        arguments = [str(encoder_folder), str(tmp_path / "in.txt"), "--output", str(tmp_path / f"out{suffix}")]
        assert main(["encode", *arguments]) == 0
    assert np.load(tmp_path / "out.npy").shape == (0, 32)
    assert parquet.read_table(tmp_path / "out.parquet").shape == (0, 2)
    assert (tmp_path / "out.jsonl").read_bytes() == b""


def test_only_the_same_command_on_the_same_input_is_continued(commands, tmp_path, monkeypatch, capsys):
    arguments, _ = commands["encode"]
    arguments += ["--output", str(tmp_path / "out.npy"), "--resume"]

    def kill(self, *_):
        raise Killed

    def begin() -> None:
        calls = []
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr("os.fsync", lambda _: calls.append(1) or (len(calls) > 1 and kill(None)))
            main(arguments)

    begin()
    assert "began with normalize False, not True: go on as it began" in fails(capsys, *arguments, "--normalize")
    with (tmp_path / "in.txt").open("a") as file:
        file.write("more\n")
    assert "began with an input of bytes" in fails(capsys, *arguments)
    assert main([part for part in arguments if part != "--resume"]) == 0  # anew
    assert len(np.load(tmp_path / "out.npy")) == len(TEXTS) + 1


def test_a_bad_row_at_the_end_is_found_before_the_work(commands, tmp_path, monkeypatch, capsys):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"text": "a"}\n' * 9 + '{"text": 5}\n')
    arguments = [*commands["encode"][0][:2], path, "--output", tmp_path / "out.npy"]
    monkeypatch.setattr("suzoo.models.CoSENTModel.encode", None)  # would fail
    assert "bad.jsonl line 10: text is not a text but 5" in fails(capsys, *arguments)
    assert not list(tmp_path.glob(".out*"))


def test_what_cannot_be_continued_is_refused(commands, tmp_path, capsys):
    command = commands["encode"][0][:2]
    assert "--resume is for an input file" in fails(capsys, *command, "-", "--output", tmp_path / "out.npy", "--resume")
    assert "--resume is for an input file" in fails(capsys, *commands["score"][0], "--resume")
    other = _chunks.Growing(tmp_path / "out.npy", b"", {}, resume=False)
    try:
        assert "another process writes" in fails(capsys, *commands["encode"][0], "--output", tmp_path / "out.npy")
    finally:
        other.remove()
    shutil.copy(tmp_path / "in.txt", tmp_path / "out.npy")
    assert "exists; give --overwrite" in fails(capsys, *commands["encode"][0], "--output", tmp_path / "out.npy")


def test_a_bar_moves_on_a_few_hundred_texts():
    sizes = []

    def compute(rows: list[int]) -> tuple[bytes, dict[str, float]]:
        sizes.append(len(rows))
        return b"", {}

    options = argparse.Namespace(command="score", resume=False, input="texts.txt")
    for num_rows, expected in ((400, [64] * 6 + [16]), (20, [20]), (10_000, [512] * 19 + [272]), (0, [])):
        sizes.clear()
        _chunks.run_in_chunks(options, None, lambda num_rows=num_rows: range(num_rows), compute, chunk=512, batch=32)
        assert sizes == expected
    for weight, expected in ((10, [13] * 3 + [1]), (500, [5] * 8), (0, [40])):  # as documents of a query
        sizes.clear()
        _chunks.run_in_chunks(
            options, None, lambda: range(40), compute, chunk=4096, batch=128, weight=lambda _, weight=weight: weight
        )
        assert sizes == expected
