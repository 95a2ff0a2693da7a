"""What is said before the first step: for every script, with little time, and what ends a run at once."""

from __future__ import annotations

import logging
import re
from importlib import import_module
from types import SimpleNamespace

from recipes import preflight
from recipes.cosent import CoSENT
from recipes.cross_encoder import CrossEncoder
from recipes.unilm import UniLM

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from suzoo.data import Classified, Pair, SourceTarget
from suzoo.hub.push import PushError, check_rights
from tests.hub.conftest import as_user, hub  # noqa: F401  fixtures
from tests.tiny import tiny_tokenizer
from tests.training.scripts import refused, run

TINY = ["--hidden-size", "32", "--num-layers", "1", "--max-train-samples", "96", "--max-dev-samples", "16"]
TINY += ["--cpu-threads", "1", "--vocab-size", "300"]
SCRIPTS = {
    "cosent": ["--batch-size", "16"],
    "contrastive": ["--batch-size", "16"],
    "two_tasks": ["--batch-size", "16"],
    "cross_encoder": ["--batch-size", "16", "--model", "None"],
    "classifier": ["--batch-size", "16", "--max-train-samples", "600"],
    "dialogpt": [],
    "unilm": [],
    "tta": [],
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_looks_and_stops(tmp_path, monkeypatch, capsys, name):
    script, folder = import_module(f"train_{name}"), tmp_path / "run"
    with pytest.raises(SystemExit) as caught:
        run(monkeypatch, script, "quickstart", *TINY, *SCRIPTS[name], "--preflight-only", "--output-dir", folder)
    assert not caught.value.code
    told = capsys.readouterr().out
    assert all(f" {about}" in told for about in ("rows", "train and dev", "cut texts", "[UNK]", "memory", "disk")), told
    assert not list(folder.glob("checkpoints/*")) and not (folder / "run.json").exists()


def test_of_a_stream_each_source_is_looked_at_and_no_row_twice(tmp_path, monkeypatch, capsys):
    for name, texts in (("train", ["a", "b", "a", "c"]), ("dev", ["c", "d"])):
        (tmp_path / f"{name}.jsonl").write_text("".join(f'{{"text": "{text} man"}}\n' for text in texts))
    flags = ["quickstart", "--stream", "--max-steps", "5", "--shuffle-buffer", "3", "--typos", "None", *TINY[:4]]
    flags += ["--data", tmp_path / "train.jsonl", "embedded:text_zh", "--data-weights", "1", "1"]
    flags += ["--dev", tmp_path / "dev.jsonl", "--preflight-only", "--output-dir", tmp_path / "run"]
    with pytest.raises(SystemExit) as caught:
        run(monkeypatch, import_module("train_tta"), *flags)
    told = capsys.readouterr().out
    found = re.search(r"the first (\d+) are looked at; 2 dev; 5 steps", told)
    assert not caught.value.code and found and 400 < int(found[1]) < 604
    assert f"1 of {found[1]} training rows repeat an earlier one" in told
    assert "! train and dev   1 of 2 dev rows have the texts of a training row" in told


def texts_of(recipe, rows) -> tuple:
    return tuple(preflight.of_texts(recipe, preflight.sample_of(tiny_tokenizer(), rows)))


def test_what_is_cut_and_unknown_is_shown():
    long = "a man " * 12  # 24 tokens
    rows = [Pair("a man", "the dog", 1.0), Pair(long, "a \N{SNOWMAN}", 0.0)] * 2
    cut, unknown = texts_of(CoSENT(max_length=24), rows)
    assert cut.is_warning and cut.text.startswith("25.0% are longer") and "'a man a man" in cut.text
    assert unknown.is_warning and unknown.text == f"{2 / 60:.2%} of the tokens: 'a \N{SNOWMAN}'"
    assert not texts_of(CoSENT(max_length=26), rows)[0].is_warning  # two are special
    assert texts_of(CrossEncoder(max_length=28), rows)[0].text.startswith("50.0%")  # of pairs
    rows = [SourceTarget("a man a man", "the dog the dog")]
    assert texts_of(UniLM(max_length=11, max_target_length=5), rows)[0].text.startswith("0.0%")
    assert texts_of(UniLM(max_length=11, max_target_length=4), rows)[0].text.startswith("50.0%")
    many = [Pair("a", "b", 1.0)] * 3000
    assert "(of 1000 rows, evenly drawn)" in texts_of(CoSENT(), many)[0].text


def test_labels_that_teach_nothing_are_a_warning():
    (equal,) = preflight.of_labels("dev", [Pair("a", "b", 2.0)] * 4)
    assert equal.is_warning and "2 to 2, mean 2; 1 different, 2 is 100% of them: nothing can be ranked" in equal.text
    (mixed,) = preflight.of_labels("train", [Pair("a", "b", float(i % 2)) for i in range(4)])
    assert not mixed.is_warning and "2 different" in mixed.text
    (classes,) = preflight.of_labels("train", [Classified("a", ("x",))] * 3 + [Classified("b", ("y",))])
    assert classes.is_warning and classes.text == "2 classes, from 1 rows (y) to 3 (x)"
    assert preflight.of_labels("train", ["text"]) == []


def test_memory_and_disk_are_measured_against_what_is_free(tmp_path, monkeypatch):
    module = nn.Linear(1000, 1000, bias=False)
    module.config = SimpleNamespace(hidden_size=100, num_hidden_layers=2)
    tokens = [Pair("a man", "the dog", 1.0)] * 8  # 8 tokens with the special ones; 4 are counted of a text's own
    arguments = Accelerator(cpu=True), module, preflight.sample_of(tiny_tokenizer(), tokens)
    (found,) = preflight.of_memory(CoSENT(batch_size=8), *arguments)
    activations = 8 * 4 * 100 * 2 * 4 * 17
    assert found.text.startswith(f"about {preflight._bytes(16e6 + activations)} for 32 tokens at once (16 MB of it")
    assert not found.is_warning
    monkeypatch.setattr(preflight.psutil, "virtual_memory", lambda: SimpleNamespace(available=1e6))
    (found,) = preflight.of_memory(CoSENT(batch_size=8), *arguments)
    assert found.is_warning and "1 MB free; --micro-batches" in found.text
    folder = SimpleNamespace(path=tmp_path, shown="out/x")
    assert not preflight.of_disk(folder, module).is_warning
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda path: SimpleNamespace(free=1e6))
    assert preflight.of_disk(folder, module).is_warning
    assert preflight.of_disk(folder, module).text.startswith("about 52 MB")  # four times weights and two states, model
    assert isinstance(module.weight, torch.Tensor)


def test_warnings_are_said_without_being_asked(tmp_path, monkeypatch, caplog):
    from recipes import frame

    monkeypatch.setattr(frame, "publish", lambda *arguments: None)
    script = import_module("train_cosent")
    flags = ["--batch-size", "32", "--max-length", "6", "--max-steps", "1", "--output-dir", tmp_path / "run"]
    with caplog.at_level(logging.WARNING):
        run(monkeypatch, script, "quickstart", *TINY, *flags)
    assert "cut texts: 100.0% are longer than --max-length allows" in caplog.text and "memory" not in caplog.text


def test_nobody_trains_for_a_repository_of_others(tmp_path, monkeypatch, capsys, hub, as_user):  # noqa: F811
    def message(repo_id):
        options = ["quickstart", *TINY, "--batch-size", "16", "--output-dir", tmp_path / "run", "--push-to", repo_id]
        return refused(monkeypatch, capsys, import_module("train_cosent"), *options)

    as_user(hub, "hf_alice")
    assert check_rights("alice/model") == check_rights("model") == "alice"
    assert "the account alice has no right to write to bob" in message("bob/model")
    as_user(hub, "hf_nobody")
    assert "does not accept the token" in message("alice/model")
    as_user(hub, None)
    assert "not logged in to the Hub" in message("alice/model")
    as_user("http://127.0.0.1:9", "hf_alice")
    (found,) = preflight.of_push(CoSENT(push_to="alice/model"))
    assert found.is_warning and "no connection" in found.text
    for answer, sentence in [({"name": "alice", "auth": {"accessToken": {"role": "read"}}}, "may only read"),
                             ({}, "answers as no Hub does"), ("<html>", "answers as no Hub does")]:  # fmt: skip
        monkeypatch.setattr("suzoo.hub.push.HfApi.whoami", lambda self, answer=answer: answer)
        with pytest.raises(PushError, match=sentence):
            check_rights("alice/model")
