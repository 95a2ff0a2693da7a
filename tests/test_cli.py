"""The command `suzoo`: order kept, output whole or absent, mistakes said in one sentence with exit code 2."""

from __future__ import annotations

import gzip
import io
import json
import runpy
import shutil
import subprocess
import sys

import numpy as np
import pytest

from suzoo.cli import encoders, main
from suzoo.models import CoSENTCrossEncoder, CoSENTModel
from tests.hub.folders import ROOT, finish_run, make_cross_encoder, make_encoder

TEXTS = ["a man sleeps", "", "今天天气很好", "a man sleeps", "a man " * 60, "他买了三本书"]


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory):
    return finish_run(make_encoder(prompts={"query": "a man "}), tmp_path_factory.mktemp("cli") / "encoder")


@pytest.fixture(scope="module")
def cross_encoder_folder(tmp_path_factory):
    return finish_run(make_cross_encoder(), tmp_path_factory.mktemp("cli") / "reranker")


def fails(capsys, *arguments) -> str:
    """The message of a user's mistake: one line, exit code 2."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1, captured.err
    return captured.err


def test_help_answers_without_torch():
    code = (
        "import sys; from suzoo.cli import encoders, main\n"
        "for words in (['--help'], ['encode', '--help']):\n"
        "    try: main(words)\n"
        "    except SystemExit as end: assert end.code == 0\n"
        "heavy = {'torch', 'transformers', 'numpy', 'datasets', 'huggingface_hub'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "rerank" in done.stdout and "--prompt-name" in done.stdout, done.stderr


@pytest.mark.parametrize("script", ["push", "verify"])
def test_the_scripts_are_the_commands(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [f"{script}.py", "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / f"hub_scripts/{script}.py"), run_name="__main__")
    assert end.value.code == 0 and f"usage: suzoo {script}" in capsys.readouterr().out


def test_encode_keeps_order_and_duplicates_in_every_format(encoder_folder, tmp_path, capsys):
    from pyarrow import parquet

    (tmp_path / "in.txt").write_text("\n".join(TEXTS) + "\n")
    expected = CoSENTModel.from_pretrained(encoder_folder).encode(TEXTS)
    for name in ["out.npy", "out.jsonl", "out.parquet"]:
        assert main(["encode", str(encoder_folder), str(tmp_path / "in.txt"), "--output", str(tmp_path / name)]) == 0
    assert "6 texts, 1 of them cut to the model's length: 32 dimensions" in capsys.readouterr().err
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, atol=1e-6)
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == TEXTS
    np.testing.assert_allclose([row["embedding"] for row in rows], expected, atol=1e-6)
    table = parquet.read_table(tmp_path / "out.parquet").to_pydict()
    assert table["text"] == TEXTS
    np.testing.assert_allclose(table["embedding"], expected, atol=1e-6)


def test_encode_reads_tables_and_stdin(encoder_folder, tmp_path, monkeypatch):
    model, out = CoSENTModel.from_pretrained(encoder_folder), tmp_path / "out.npy"
    (tmp_path / "in.jsonl").write_text('{"id": 1, "title": "他买了三本书"}\n{"id": 2, "title": "a dog"}\n')
    arguments = ["encode", str(encoder_folder), str(tmp_path / "in.jsonl"), "--output", str(out)]
    assert main([*arguments, "--column", "title", "--prompt-name", "query", "--normalize"]) == 0
    expected = model.encode(["他买了三本书", "a dog"], prompt_name="query", normalize=True)
    np.testing.assert_allclose(np.load(out), expected, atol=1e-6)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a dog\r\nx")))
    assert main(["encode", str(encoder_folder), "-", "--output", str(out), "--overwrite"]) == 0
    np.testing.assert_allclose(np.load(out), model.encode(["a dog", "x"]), atol=1e-6)


def test_rerank_one_query_and_many(cross_encoder_folder, tmp_path, capsys):
    documents = ["a dog", "a man plays the flute", "今天天气很好", "a dog"]
    (tmp_path / "documents.txt").write_text("\n".join(documents))
    arguments = [
        "rerank",
        str(cross_encoder_folder),
        "--query",
        "a man",
        "--documents",
        str(tmp_path / "documents.txt"),
    ]
    assert main(arguments) == 0
    hits = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    expected = CoSENTCrossEncoder.from_pretrained(cross_encoder_folder).rank("a man", documents)
    assert [(hit["corpus_id"], hit["text"]) for hit in hits] == [(hit["corpus_id"], hit["text"]) for hit in expected]
    np.testing.assert_allclose([hit["score"] for hit in hits], [hit["score"] for hit in expected], atol=1e-6)

    rows = [{"id": 7, "query": "x", "documents": []}, {"id": 8, "query": "a man", "documents": documents}]
    (tmp_path / "many.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "out.jsonl"
    many = ["rerank", str(cross_encoder_folder), "--input", str(tmp_path / "many.jsonl"), "--output", str(out)]
    assert main([*many, "--top-k", "2"]) == 0
    first, second = (json.loads(line) for line in out.read_text().splitlines())
    assert first == {**rows[0], "ranking": []}
    assert second["id"] == 8 and [hit["corpus_id"] for hit in second["ranking"]] == [
        hit["corpus_id"] for hit in expected[:2]
    ]


def test_mistakes_are_one_sentence_and_leave_no_file(encoder_folder, cross_encoder_folder, tmp_path, capsys):
    good = tmp_path / "in.txt"
    good.write_text("a\n")
    out = tmp_path / "out.npy"

    def encode(model=encoder_folder, source=good, output=out, *more):
        return fails(capsys, "encode", model, source, "--output", output, *more)

    assert "must end in .npy" in encode(output=tmp_path / "out.txt")
    assert "there is no folder" in encode(output=tmp_path / "nowhere/out.npy")
    assert "use `suzoo rerank`" in encode(cross_encoder_folder)
    assert "cannot load" in encode(tmp_path)
    assert "there is no folder" in encode(tmp_path / "model")
    assert "no prompt is called 'title'" in encode(encoder_folder, good, out, "--prompt-name", "title")
    assert "positions for 72 tokens" in encode(encoder_folder, good, out, "--max-length", "73")
    assert "in2.txt (did you mean 'in.txt'?)" in encode(source=tmp_path / "in2.txt")
    mute = shutil.copytree(encoder_folder, tmp_path / "mute")
    for path in mute.glob("tokenizer*"):
        path.unlink()
    assert "no usable tokenizer" in encode(mute)
    (tmp_path / "latin.txt").write_bytes(b"good\nbad \xe9\n")
    assert "line 2: byte 0xe9 at position 4 is not UTF-8" in encode(source=tmp_path / "latin.txt")
    (tmp_path / "cut.txt.gz").write_bytes(gzip.compress(b"good\n" * 99)[:-12])
    assert "cut.txt.gz is not a whole gzip file" in encode(source=tmp_path / "cut.txt.gz")
    table = tmp_path / "in.jsonl"
    table.write_text('{"a": "x", "b": 1}\n')
    assert "no column 'text'" in encode(source=table)
    assert "in.jsonl line 1: b is not a text but 1" in encode(encoder_folder, table, out, "--column", "b")
    table.write_text('{"a": "x"}\n{"a": \n')
    assert "line 2" in encode(source=table)
    assert not list(tmp_path.glob("*.npy")) and not list(tmp_path.glob(".out*"))
    out.write_bytes(b"precious")
    assert "--overwrite" in encode()
    assert out.read_bytes() == b"precious"

    assert "one score" in fails(capsys, "rerank", encoder_folder, "--query", "x", "--documents", good)
    assert "--query and --documents" in fails(capsys, "rerank", cross_encoder_folder, "--query", "x")
    assert "is not a folder" in fails(capsys, "verify", tmp_path / "nothing")
    assert "golden.safetensors" in fails(capsys, "verify", tmp_path)
    assert "not a repository name" in fails(capsys, "push", encoder_folder, "no good name")
    assert "config.json" in fails(capsys, "export-onnx", tmp_path, tmp_path / "out.onnx")


def test_a_full_disk_leaves_the_old_file_and_what_can_be_continued(encoder_folder, tmp_path, monkeypatch, capsys):
    (tmp_path / "in.txt").write_text("a\nb\nc\n")
    out = tmp_path / "out.npy"
    out.write_bytes(b"old")
    arguments = ["encode", encoder_folder, tmp_path / "in.txt", "--output", out, "--overwrite"]
    calls = []

    def full_disk(descriptor):
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(encoders, "CHUNK", 1)
    monkeypatch.setattr("os.fsync", full_disk)
    message = fails(capsys, *arguments)
    assert "No space left" in message and "1 rows are kept: make room, then go on with --resume" in message
    assert out.read_bytes() == b"old"
    assert main([str(argument) for argument in (*arguments, "--resume")]) == 0
    assert len(calls) == 4 and np.load(out).shape == (3, 32)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.txt", "out.npy"]
    monkeypatch.setenv("SUZOO_TRACEBACK", "1")
    with pytest.raises(ValueError, match="exists; give --overwrite"):
        main([str(argument) for argument in arguments if argument != "--overwrite"])
