"""Datasets of the Hub by name: the real client of `datasets` in a process of its own, against the loopback Hub."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import datasets
import pytest

from tests.hub.server import File, LoopbackHub, Repo

ROOT = Path(__file__).parent.parent.parent
READ = """
import json, sys
from dataclasses import astuple
from suzoo.data import DataError, read_pairs, read_texts
for line in sys.stdin:
    reader, source, split = json.loads(line)
    try:
        if reader == "pairs":
            rows = [astuple(pair) for pair in read_pairs(source, split=split)]
        else:
            rows = read_texts(source, split=split)
    except DataError as error:
        rows = f"DataError: {error}"
    print("read", json.dumps(rows), flush=True)
"""


def parquet(folder: Path, rows: dict, features: datasets.Features | None = None) -> File:
    path = folder / "rows.parquet"
    datasets.Dataset.from_dict(rows, features=features).to_parquet(path)
    return File(path.read_bytes(), is_lfs=True)


@pytest.fixture(scope="module")
def answers(tmp_path_factory) -> dict[tuple, object]:
    """(reader, source, split) -> the rows, or the sentence."""
    folder = tmp_path_factory.mktemp("datasets")
    nli = datasets.Features(
        {
            "premise": datasets.Value("string"),
            "hypothesis": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["entailment", "neutral", "contradiction"]),
        }
    )
    inferences = {"premise": ["a", "c"], "hypothesis": ["b", "d"], "label": [0, 2]}
    shards = [parquet(folder, {"text1": [f"今天{i}"], "text2": ["b"], "score": [i / 2]}) for i in range(3)]
    configs = "configs:\n- config_name: small\n  data_files:\n  - split: test\n    path: small/*.parquet\n"
    repos = {
        "alice/pairs": {
            "data/train-00000-of-00002.parquet": shards[0],
            "data/train-00001-of-00002.parquet": shards[1],
            "data/validation-00000-of-00001.parquet": shards[2],
        },
        "alice/nli": {"README.md": File(f"---\n{configs}---\n".encode(), False), "small/x.parquet": parquet(
            folder, inferences, nli)},
        "alice/lines": {"train.jsonl": File(b'{"text": "one"}\n{"text": "two"}\n', is_lfs=False)},
        "bob/secret": {"train.jsonl": File(b'{"text": "mine"}\n', is_lfs=False)},
    }  # fmt: skip
    questions = [
        ("pairs", "alice/pairs", None),
        ("pairs", "alice/pairs", "dev"),
        ("pairs", "alice/pairs", "test"),
        ("pairs", "alice/nli:small", "test"),
        ("pairs", "alice/nli:large", "test"),
        ("texts", "alice/lines", "train"),
        ("texts", "alice/missing", None),
        ("texts", "bob/secret", None),
    ]
    with LoopbackHub({"hf_alice": "alice", "hf_bob": "bob"}) as hub:
        for name, files in repos.items():
            repo = hub.repos[f"datasets/{name}"] = Repo(private=name.startswith("bob"))
            repo.commit("main", files, "all files")
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
            "HF_ENDPOINT": hub.endpoint,
            "HF_HOME": str(folder / "home"),
            "HF_TOKEN": "hf_alice",
            "PYTHONPATH": str(ROOT),
        }
        asked = "".join(json.dumps(question) + "\n" for question in questions)
        done = subprocess.run(
            [sys.executable, "-c", READ], input=asked, capture_output=True, text=True, env=environment, timeout=120
        )
        assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line[5:]) for line in done.stdout.splitlines() if line.startswith("read ")]
    return dict(zip(questions, lines, strict=True))


def test_splits_and_their_shards(answers):
    assert answers["pairs", "alice/pairs", None] == [["今天0", "b", 0.0], ["今天1", "b", 0.5]]
    assert answers["pairs", "alice/pairs", "dev"] == [["今天2", "b", 1.0]]
    assert answers["texts", "alice/lines", "train"] == ["one", "two"]


def test_a_configuration_and_its_named_classes(answers):
    assert answers["pairs", "alice/nli:small", "test"] == [["a", "b", 2.0], ["c", "d", 0.0]]


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (("pairs", "alice/pairs", "test"), "alice/pairs has no split 'test'; it has train, validation"),
        (("pairs", "alice/nli:large", "test"), "BuilderConfig 'large' not found. Available: ['small']"),
        (("texts", "alice/missing", None), "Dataset 'alice/missing' doesn't exist on the Hub or cannot be accessed"),
        (("texts", "bob/secret", None), "Dataset 'bob/secret' doesn't exist on the Hub or cannot be accessed"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(answers, question, message):
    answer = answers[question]
    assert isinstance(answer, str) and answer.startswith("DataError: ") and message in answer
