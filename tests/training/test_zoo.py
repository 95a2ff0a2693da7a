"""The zoo: what its table says of the data, one command that makes a member, and all of them pushed."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

from recipes import zoo
from recipes.zoo import MEMBERS, SOURCES, Part, check_sources, prepare

import pytest
import train_cosent
import train_distill

from suzoo.cli import main
from suzoo.data import embedded, read_pairs
from suzoo.models import CoSENTModel
from tests.hub.conftest import as_user, hub  # noqa: F401  fixtures
from tests.tiny import tiny_config, tiny_tokenizer
from tests.training.scripts import open_doors_here, run

ROOT = Path(__file__).parents[2]
SMALL = ["--batch-size", "8", "--max-steps", "2", "--evaluate-every", "2", "--cpu-threads", "1"]


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    """Files by the names of the table, 60 pairs each; the first text of a test is in a training file, too."""
    folder, rows = tmp_path_factory.mktemp("sources"), list(embedded.load("pairs_zh", "train"))
    for number, source in enumerate(SOURCES.values()):
        part = rows[number * 60 : number * 60 + 60]
        lines = [f"{row['text1']}\t{row['text2']}\t{source.highest * row['label'] / 5:g}\n" for row in part]
        (folder / source.file).write_text("text1\ttext2\tlabel\n" + "".join(lines), encoding="utf-8")
    test = (folder / SOURCES["lcqmc-test"].file).read_text(encoding="utf-8").splitlines()[1].split("\t")
    with (folder / SOURCES["stsb"].file).open("a", encoding="utf-8") as file:
        file.write(f"{test[0]}\t别的句子\t5\n")
    return folder


@pytest.fixture
def members(monkeypatch):
    """The table, for 60 rows a file."""
    train = {"stsb": Part("stsb"), "atec": Part("atec", without_last=20), "simclue": Part("simclue")}
    few = {"train": train, "num_dev": {"stsb": 9, "atec": 6, "simclue": 6}}
    tests = zoo.TESTS | {"ATEC": Part("atec", last=20, first=10)}
    texts = {"stsb": None, "atec": 5}
    for name, member in MEMBERS.items():
        smaller = replace(member, **few, tests=tests, texts=texts if member.texts else {})
        monkeypatch.setitem(zoo.MEMBERS, name, smaller)
    return zoo.MEMBERS


def test_the_table_names_what_is_there():
    for name, member in MEMBERS.items():
        assert (ROOT / f"training/train_{member.command[0]}.py").exists()
        assert f"`{name}`" in (ROOT / "docs/zoo.md").read_text(encoding="utf-8")
        assert member.num_dev.keys() == member.train.keys()
        if member.base.startswith("zoo:"):
            assert member.base.removeprefix("zoo:") in MEMBERS
        for part in (*member.train.values(), *member.tests.values()):
            assert part.source in SOURCES and len(SOURCES[part.source].sha256) == 64
    # no source is both trained on and tested on, but for rows at its end
    for member in MEMBERS.values():
        for train in member.train.values():
            for test in member.tests.values():
                assert train.source != test.source or train.without_last == test.last


def test_training_rows_have_no_text_of_a_test(tmp_path, sources, members):
    member = members["cosent-zh-mini"]
    prepare(member, sources, tmp_path)
    tested = {
        text for path in tmp_path.glob("test *.tsv") for row in read_pairs(str(path)) for text in (row.text1, row.text2)
    }
    of_file = read_pairs(str(sources / SOURCES["atec"].file), columns=("score=label",))
    tested |= {text for row in of_file[-20:] for text in (row.text1, row.text2)}  # beyond the ten that are scored
    for name in ("stsb", "atec", "simclue", "dev"):
        rows = read_pairs(str(tmp_path / f"{name}.tsv"))
        assert rows and not {text for row in rows for text in (row.text1, row.text2)} & tested
        assert min(row.label for row in rows) >= 0 and max(row.label for row in rows) <= 1
    assert len(read_pairs(str(tmp_path / "dev.tsv"))) == 21 and len(read_pairs(str(tmp_path / "test ATEC.tsv"))) == 10
    texts = (tmp_path / "texts.txt").read_text(encoding="utf-8").splitlines()
    assert len(texts) == len(set(texts)) > 60 and not set(texts) & tested
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    prepare(member, sources, tmp_path)
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


def test_a_missing_file_is_named_and_another_file_noted(tmp_path, sources, capsys):
    notes = check_sources(MEMBERS["cosent-zh-small"], sources)
    assert len(notes) == 7 and "is not the file that the scores in docs/zoo.md are of" in notes[0]
    assert main(["zoo", "build", "cosent-zh-small", "--sources", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert "stsb_zh.train.tsv is missing: pairs with the columns text1, text2 and label from github.com/" in told
    assert main(["zoo", "build", "cosent-zh", "--sources", str(tmp_path)]) == 2
    assert "the zoo has no cosent-zh: it has cosent-zh-small, cosent-zh-mini" in capsys.readouterr().err
    assert main(["zoo", "list"]) == 0
    told = capsys.readouterr().out
    assert "cosent-zh-mini: " in told and "research only" in told


def test_one_command_makes_a_member_and_what_it_is_made_from(
    tmp_path,
    monkeypatch,
    capsys,
    sources,
    members,
    hub,  # noqa: F811
    as_user,  # noqa: F811
):
    base, out, started = tmp_path / "base", tmp_path / "out", []
    model = CoSENTModel(tiny_config(num_hidden_layers=4, max_position_embeddings=72), pooling="mean")
    model.tokenizer = tiny_tokenizer()
    model.save_pretrained(base)
    open_doors_here(monkeypatch)
    tiny = {"cosent": [], "distill": ["--vocab-size", "60", "--hidden-size", "16"]}

    def in_this_process(arguments):
        name, *arguments = arguments
        started.append(name)
        script = {"cosent": train_cosent, "distill": train_distill}[name]
        own, given = arguments[: arguments.index("--output-dir")], arguments[arguments.index("--output-dir") :]
        run(monkeypatch, script, *own, *SMALL, *tiny[name], *given)
        return 0

    monkeypatch.setattr("suzoo.cli.zoo.train", in_this_process)
    command = ["zoo", "build", "cosent-zh-mini", "--sources", str(sources), "--base", str(base)]
    command += ["--output-dir", str(out)]
    assert main(command) == 0
    told = capsys.readouterr()
    assert "to make: cosent-zh-small, cosent-zh-mini, about" in told.err and "verified: " in told.out
    assert started == ["cosent", "distill"]
    record = json.loads((out / "cosent-zh-mini/zoo.json").read_text(encoding="utf-8"))
    assert set(record["tests"]) == set(zoo.TESTS) and record["base"] == "zoo:cosent-zh-small"
    assert "PAWS-X zh" in (out / "cosent-zh-mini/README.md").read_text(encoding="utf-8")
    assert main(command) == 0 and started == ["cosent", "distill"]  # nothing left to make
    assert "to make: nothing" in capsys.readouterr().err

    spec = importlib.util.spec_from_file_location("push_zoo", ROOT / "hub_scripts/push_zoo.py")
    push_zoo = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(push_zoo)
    as_user(hub, "hf_alice")
    monkeypatch.setattr("suzoo.hub.push.check_folder", lambda folder, report, **options: [])  # verified above
    assert push_zoo.main([str(out), "alice"]) == 0
    assert all(hub.repos[f"alice/{name}"].private for name in MEMBERS)
    assert "PAWS-X zh" in hub.files("alice/cosent-zh-mini")["README.md"].decode()
    assert push_zoo.main([str(out), "alice", "--only", "nobody"]) == 2
    assert "has no finished nobody" in capsys.readouterr().err
    assert push_zoo.main([str(tmp_path), "alice"]) == 2
    assert push_zoo.main([str(out), "bob", "--only", "cosent-zh-small"]) == 1  # alice may not write there
    assert "cosent-zh-small: " in capsys.readouterr().err
