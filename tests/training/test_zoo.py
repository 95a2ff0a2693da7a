"""The zoo: what its table says of the data, one command that makes a member, and all of them pushed."""

from __future__ import annotations

import gzip
import importlib
import importlib.util
import json
from dataclasses import replace
from pathlib import Path

from recipes import zoo
from recipes.zoo import MEMBERS, SOURCES, Part
from recipes.zoo_data import check_sources, prepare

import pytest

from suzoo.cli import main
from suzoo.data import embedded, read_dialogues, read_pairs
from suzoo.models import CoSENTModel
from tests.hub.conftest import as_user, hub  # noqa: F401  fixtures
from tests.hub.folders import open_doors_here
from tests.tiny import tiny_config, tiny_tokenizer
from tests.training.scripts import run

ROOT = Path(__file__).parents[2]
SMALL = ["--max-steps", "2", "--evaluate-every", "2", "--cpu-threads", "1"]
SMALL_STUDENT = ["--vocab-size", "60", "--hidden-size", "16"]


# kind of a source -> the corpus that stands in for it, and its fields in the order of the source's columns
CORPORA = {
    "pairs": ("pairs_zh", ("text1", "text2", "label")),
    "classes": ("classes_zh", ("text", "label")),
    "sources and targets": ("titles_zh", ("source", "target")),
    "texts": ("text_zh", ("text",)),
    "dialogues": ("dialogues_zh", ("turns",)),
}


def write_source(path: Path, source: zoo.Source, rows: list[dict]) -> None:
    """A file in the form of the source: the columns that the table names for it."""
    fields = CORPORA[source.kind][1]
    names = [column.partition("=")[2] for column in source.columns] or fields
    values = [[row[field] for field in fields] for row in rows]
    if source.kind == "pairs":
        values = [[text1, text2, f"{source.highest * label / 5:g}"] for text1, text2, label in values]
    if path.name.endswith(".tsv"):
        lines = ["\t".join(names), *("\t".join(row) for row in values)]
    elif source.kind == "texts":
        lines = [text for (text,) in values]
    else:
        lines = [json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False) for row in values]
    data = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    """Files by the names of the table, 60 rows each; the first text of a test is in a training file, too."""
    folder = tmp_path_factory.mktemp("sources")
    rows = {kind: list(embedded.load(name, "train")) for kind, (name, _) in CORPORA.items()}
    for source in SOURCES.values():
        write_source(folder / source.file, source, rows[source.kind][:60])
        del rows[source.kind][:60]
    test = (folder / SOURCES["lcqmc-test"].file).read_text(encoding="utf-8").splitlines()[1].split("\t")
    with (folder / SOURCES["stsb"].file).open("a", encoding="utf-8") as file:
        file.write(f"{test[0]}\t别的句子\t5\n")
    return folder


@pytest.fixture
def members(monkeypatch):
    """The table, for 60 rows a file: 20 of them where a test is the end of a training file."""

    def smaller(part: Part) -> Part:
        last, without = 20 if part.last else None, 20 if part.without_last else 0
        return Part(part.source, last=last, without_last=without, first=10)

    for name, member in MEMBERS.items():
        fewer = {
            "train": {name: smaller(part)._replace(first=None) for name, part in member.train.items()},
            "tests": {name: smaller(part) for name, part in member.tests.items()},
            "num_dev": dict.fromkeys(member.train, 7),
            "texts": tuple(smaller(part) for part in member.texts),
        }
        monkeypatch.setitem(zoo.MEMBERS, name, replace(member, **fewer))
    return zoo.MEMBERS


def test_the_table_names_what_is_there():
    for name, member in MEMBERS.items():
        assert (ROOT / f"training/train_{member.command.split()[0]}.py").exists()
        assert f"`{name}`" in (ROOT / "docs/zoo.md").read_text(encoding="utf-8")
        assert member.num_dev.keys() == member.train.keys()
        if member.base.startswith("zoo:"):
            assert member.base.removeprefix("zoo:") in MEMBERS
        for part in (*member.train.values(), *member.tests.values(), *member.texts):
            assert part.source in SOURCES and len(SOURCES[part.source].sha256) == 64
        # dev.tsv and the like hold rows of all training sources
        assert len({SOURCES[part.source].kind for part in member.train.values()}) <= 1
        assert member.train or member.texts
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
    held_out = {text for row in read_pairs(str(tmp_path / "dev.tsv")) for text in (row.text1, row.text2)}
    assert len(texts) == len(set(texts)) > 60 and not set(texts) & (tested | held_out)
    turns = [turn for dialogue in read_dialogues(str(sources / SOURCES["daily"].file))[:10] for turn in dialogue]
    assert set(turns) < set(texts)
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


def tiny_base(folder: Path) -> None:
    model = CoSENTModel(tiny_config(num_hidden_layers=4, max_position_embeddings=160), pooling="mean")
    model.tokenizer = tiny_tokenizer()
    model.save_pretrained(folder)


def trained_here(monkeypatch) -> list[str]:
    """Let trainings of the zoo run in this process and take two steps; returns the list of those that began."""
    started: list[str] = []
    examples = [*SMALL, "--batch-size", "8"]
    tokens = [*SMALL, "--micro-batch-tokens", "512"]
    few = {name: examples for name in ("cosent", "cross_encoder", "classifier", "distill")}
    few["tta"] = [*tokens, "--max-scored", "2"]
    few |= {name: [*tokens, "--max-scored", "2"] for name in ("unilm", "dialogpt")}

    def in_this_process(arguments):
        name, *arguments = arguments
        started.append(name)
        script = importlib.import_module(f"train_{name}")
        own, given = arguments[: arguments.index("--output-dir")], arguments[arguments.index("--output-dir") :]
        is_cut = name == "distill" and "--model" not in own  # a second training has its student
        run(monkeypatch, script, *own, *few[name], *(SMALL_STUDENT if is_cut else []), *given)
        return 0

    monkeypatch.setattr("suzoo.cli.zoo.train", in_this_process)
    return started


MADE_FROM_MINI = [
    pytest.param("classifier-zh-news", "accuracy", id="classifier"),
    *(
        pytest.param(name, metric, marks=pytest.mark.slow, id=name)
        for name, metric in (
            ("gru-zh", "spearman"),
            ("cosent-zh-mini-open", "spearman"),
            ("reranker-zh-small", "spearman"),
            ("tta-zh-mini", "pseudo_perplexity"),
            ("unilm-zh-title", "rouge_l"),
            ("dialogpt-zh", "perplexity"),
            ("cosent-en-small", "spearman"),
            ("mlm-en-small", "pseudo_perplexity"),
        )
    ),
]


@pytest.mark.parametrize(("name", "metric"), MADE_FROM_MINI)
def test_every_kind_of_member_is_made_and_scored(tmp_path, monkeypatch, capsys, sources, members, name, metric):
    trained_here(monkeypatch)
    if name not in ("tta-zh-mini", "unilm-zh-title"):  # folders with code
        open_doors_here(monkeypatch)
    first = tmp_path / "base"
    tiny_base(first)
    for made in {"cosent-zh-small", "cosent-zh-mini", "cosent-zh-mini-open"} - {name}:
        tiny_base(tmp_path / "out" / made)
        (tmp_path / "out" / made / "zoo.json").write_text('{"tests": {}}')
    command = ["zoo", "build", name, "--sources", str(sources), "--output-dir", str(tmp_path / "out")]
    assert main([*command, *([] if members[name].base.startswith("zoo:") else ["--base", str(first)])]) == 0
    assert f"{next(iter(members[name].tests)):<12} " in capsys.readouterr().out
    record = json.loads((tmp_path / f"out/{name}/zoo.json").read_text(encoding="utf-8"))
    assert record["tests"].keys() == members[name].tests.keys()
    first_test = next(iter(record["tests"].values()))
    assert metric in first_test and all(number == number for number in first_test.values())


def test_one_command_makes_a_member_and_what_it_is_made_from(
    tmp_path,
    monkeypatch,
    capsys,
    sources,
    members,
    hub,  # noqa: F811
    as_user,  # noqa: F811
):
    base, out = tmp_path / "base", tmp_path / "out"
    tiny_base(base)
    started = trained_here(monkeypatch)
    open_doors_here(monkeypatch)
    command = ["zoo", "build", "cosent-zh-mini", "--sources", str(sources), "--base", str(base)]
    command += ["--output-dir", str(out)]
    assert main(command) == 0
    told = capsys.readouterr()
    assert "to make: cosent-zh-small, cosent-zh-mini, about" in told.err and "verified: " in told.out
    assert started == ["cosent", "distill", "distill"]
    began = json.loads((out / "cosent-zh-mini/run.json").read_text(encoding="utf-8"))["recipe"]
    assert began["model"] == str(out / "cosent-zh-mini-first")
    record = json.loads((out / "cosent-zh-mini/zoo.json").read_text(encoding="utf-8"))
    assert set(record["tests"]) == set(zoo.TESTS) and record["base"] == "zoo:cosent-zh-small"
    made = json.loads((out / "cosent-zh-small/run.json").read_text(encoding="utf-8"))
    assert made["base_model"] == "intfloat/multilingual-e5-small" and len(made["sources"]) == 7
    used = {source["file"]: source["used_for"] for source in made["sources"]}
    assert used["lcqmc.dev.tsv"] == "test" and used["atec.train_partial.tsv"] == "training and test"
    assert (made["data"]["LCQMC"]["source"], made["data"]["LCQMC"]["rows"]) == ("lcqmc.dev.tsv", 10)
    assert "base_model" not in json.loads((out / "cosent-zh-mini/run.json").read_text(encoding="utf-8"))
    assert "PAWS-X zh" in (out / "cosent-zh-mini/README.md").read_text(encoding="utf-8")
    assert main(command) == 0 and len(started) == 3  # nothing left to make
    assert "to make: nothing" in capsys.readouterr().err

    spec = importlib.util.spec_from_file_location("push_zoo", ROOT / "hub_scripts/push_zoo.py")
    push_zoo = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(push_zoo)
    as_user(hub, "hf_alice")
    monkeypatch.setattr("suzoo.hub.push.check_folder", lambda folder, report, **options: [])  # verified above
    assert push_zoo.main([str(out), "alice"]) == 0
    assert all(hub.repos[f"alice/{name}"].private for name in ("cosent-zh-small", "cosent-zh-mini"))
    assert "PAWS-X zh" in hub.files("alice/cosent-zh-mini")["README.md"].decode()
    assert push_zoo.main([str(out), "alice", "--only", "nobody"]) == 2
    assert "has no finished nobody" in capsys.readouterr().err
    assert push_zoo.main([str(tmp_path), "alice"]) == 2
    assert push_zoo.main([str(out), "bob", "--only", "cosent-zh-small"]) == 1  # alice may not write there
    assert "cosent-zh-small: " in capsys.readouterr().err
