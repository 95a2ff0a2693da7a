"""A folder that others made runs nothing: its code stays shut unless it is suzoo's own or was asked for."""

from __future__ import annotations

import ast
import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from suzoo.cli import main
from suzoo.hub import verify as v
from suzoo.hub.check import open_doors
from suzoo.hub.golden import check_with_suzoo
from suzoo.hub.push import push
from suzoo.hub.verify.trust import foreign_code, foreign_modules
from tests.hub.folders import ROOT, make_encoder
from tests.tiny import tiny_tokenizer


class Hostile:
    """A copy of a good folder whose code says that it ran."""

    def __init__(self, good: Path, root: Path):
        self.folder = Path(shutil.copytree(good, root / good.name))
        self.traces = root / "traces"

    def code(self, then: str = "class Evil: pass\n") -> str:
        # in a process of its own as well: it is found by its absolute path
        return f"import os\nopen({str(self.traces)!r}, 'a').write(os.environ.get('HF_TOKEN', 'ran') + '\\n')\n{then}"

    def ran(self) -> list[str]:
        return self.traces.read_text().split() if self.traces.exists() else []

    def settings(self, name: str, **changes) -> None:
        path = self.folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def own_code_changed(evil: Hostile) -> None:
    for path in evil.folder.glob("modeling_*.py"):
        path.write_text(path.read_text() + evil.code(""))


def a_module_beside_it_changed(evil: Hostile) -> None:
    path = next(path for path in evil.folder.glob("_*.py"))
    path.write_text(path.read_text() + evil.code(""))


def a_type_of_its_own(evil: Hostile) -> None:
    names = ("AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoModelForMaskedLM", "AutoTokenizer")
    evil.settings("config.json", model_type="evil", auto_map=dict.fromkeys(names, "evil.Evil"))
    (evil.folder / "evil.py").write_text(evil.code())


def a_tokenizer_of_its_own(evil: Hostile) -> None:
    auto_map = {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    evil.settings("tokenizer_config.json", tokenizer_class="Evil", auto_map=auto_map)
    (evil.folder / "evil.py").write_text(evil.code())


def code_of_another_folder(evil: Hostile) -> None:
    elsewhere = evil.folder.parent / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    (elsewhere / "evil.py").write_text(evil.code())
    (elsewhere / "config.json").write_text("{}")
    names = ("AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoModelForMaskedLM")
    evil.settings("config.json", auto_map=dict.fromkeys(names, f"{elsewhere}--evil.Evil"))


def a_generate_of_its_own(evil: Hostile) -> None:
    (evil.folder / "custom_generate").mkdir()
    code = evil.code("def generate(model, **inputs): return inputs['input_ids']\n")
    (evil.folder / "custom_generate" / "generate.py").write_text(code)


WAYS = [
    own_code_changed,
    a_module_beside_it_changed,
    a_type_of_its_own,
    a_tokenizer_of_its_own,
    code_of_another_folder,
    a_generate_of_its_own,
]


@pytest.fixture
def yes(monkeypatch):
    """Somebody pipes `y` into the command, as `printf 'y\\n' | suzoo chat FOLDER` does."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 50))
    monkeypatch.setenv("HF_TOKEN", "hf_secret")


@pytest.mark.parametrize("way", WAYS)
def test_no_command_runs_what_a_folder_brings(way: Callable, language_folders, tmp_path, yes, capsys):
    text = tmp_path / "in.txt"
    text.write_text("a man\n")
    for name, *commands in [
        (
            "unilm",
            ["summarize", "FOLDER", str(text)],
            ["slim-vocab", "FOLDER", str(tmp_path / "s"), "--corpus", str(text)],
        ),
        ("blog", ["chat", "FOLDER", "--max-new-tokens", "2"]),
        ("tta", ["score", "FOLDER", str(text)]),
    ]:
        evil = Hostile(language_folders[name], tmp_path)
        way(evil)
        for command in commands:
            sys.stdin = io.StringIO("y\n" * 3)
            main([str(evil.folder) if part == "FOLDER" else part for part in command])
        assert evil.ran() == []
    said = capsys.readouterr()
    assert "Do you wish to run" not in said.out + said.err
    if way is a_type_of_its_own:
        assert said.err.count("give --trust-remote-code") == 4


@pytest.mark.parametrize(
    ("command", "way"),
    [
        *((command, way) for command in ("encode", "rerank", "explain") for way in WAYS[2:]),
        ("export-onnx", a_type_of_its_own),  # the others do not keep it from exporting, which takes long
    ],
)
def test_no_command_of_encoders_runs_what_a_folder_brings(way, command, request, tmp_path, yes, capsys):
    text = tmp_path / "in.txt"
    text.write_text("a man\n")
    evil = Hostile(request.getfixturevalue(f"{'cross_encoder' if command == 'rerank' else 'encoder'}_folder"), tmp_path)
    way(evil)
    main([command, str(evil.folder), *rest_of(command, text, tmp_path / "out")])
    said = capsys.readouterr()
    assert evil.ran() == [] and "Do you wish to run" not in said.out
    if way is a_type_of_its_own:
        assert "give --trust-remote-code" in said.err


def rest_of(command: str, text: Path, output: Path) -> list[str]:
    """The arguments of a command behind the model's folder."""
    return {
        "encode": [str(text), "--output", f"{output}.npy"],
        "rerank": ["--query", "a", "--documents", str(text)],
        "explain": ["a man", "--pair", "a dog", "--steps", "2"],
        "export-onnx": [f"{output}.onnx"],
        "summarize": [str(text)],
        "score": [str(text)],
        "chat": ["--max-new-tokens", "2"],
        "slim-vocab": [str(output), "--corpus", str(text)],
        "verify": [],
        "push": ["alice/evil"],
    }[command]


class Payload:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize(
    ("name", "commands"),
    [
        ("encoder", ["encode", "explain", "export-onnx", "slim-vocab"]),
        ("cross_encoder", ["rerank"]),
        ("dialogue", ["chat"]),
        ("unilm", ["summarize"]),
        ("tta", ["score"]),
    ],
)
def test_a_pickle_is_refused_in_every_command(name, commands, request, language_folders, tmp_path, yes, capsys):
    good = language_folders.get(name) or request.getfixturevalue(f"{name}_folder")
    folder, text, trace = Path(shutil.copytree(good, tmp_path / name)), tmp_path / "in.txt", tmp_path / "ran"
    text.write_text("a man\n")
    (folder / "model.safetensors").unlink()
    with (folder / "pytorch_model.bin").open("wb") as file:
        pickle.dump({"weight": Payload(trace)}, file)
    for command in commands:
        assert main([command, str(folder), *rest_of(command, text, tmp_path / command)]) != 0
        said = capsys.readouterr().err
        assert said.startswith(f"suzoo {command}: cannot load ") and said.count("\n") == 1
        assert "a pickle that would run code" in said
    own = check_with_suzoo(folder)
    doors = [v.check_promised_door(door, folder) for door in v.read_promise(folder)["doors"] if "Auto" in door]
    assert own.status == "failed" and any(door.status == "failed" for door in doors)
    assert not trace.exists()


@pytest.mark.parametrize("way", WAYS)
def test_doors_that_would_run_foreign_code_stay_shut(way, language_folders, tmp_path):
    evil = Hostile(language_folders["tta"], tmp_path)
    assert foreign_code(evil.folder) == ""
    way(evil)
    assert foreign_code(evil.folder) != ""
    for name in v.read_promise(evil.folder)["doors"][1:]:  # files alone are read and not run
        door = v.check_promised_door(name, evil.folder)
        assert door.status == "failed" and "not opened" in door.note and "--trust-remote-code" in door.note
    assert evil.ran() == []


def test_verify_and_push_of_a_hostile_folder_run_nothing(language_folders, tmp_path, hub, as_user):
    evil = Hostile(language_folders["tta"], tmp_path)
    own_code_changed(evil)
    as_user(hub, "hf_alice")
    with pytest.raises(ValueError, match="does not verify: AutoTokenizer, trust_remote_code, AutoModelForMaskedLM"):
        push(evil.folder, "alice/evil", just_written=True)
    assert evil.ran() == [] and hub.requests == []


@pytest.mark.slow
def test_whoever_says_so_runs_foreign_code_and_gives_it_no_token(language_folders, tmp_path, monkeypatch):
    evil = Hostile(language_folders["tta"], tmp_path)
    own_code_changed(evil)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    doors = v.verify(evil.folder, trust_remote_code=True)
    assert [door.status for door in doors] == ["ok"] * 5 and set(evil.ran()) == {"ran"}


def test_the_child_of_verify_has_no_secrets(tmp_path, monkeypatch):
    secrets = [
        "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
        "WANDB_API_KEY",
        "AWS_SECRET_ACCESS_KEY",
        "MY_PASSWORD",
        "GH_TOKEN",
    ]
    for name in secrets:
        monkeypatch.setenv(name, "secret")
    seen = tmp_path / "seen"
    v.run_apart(["-c", f"import os; open({str(seen)!r}, 'w').write(' '.join(os.environ))"], tmp_path, 60)
    assert not set(secrets) & set(seen.read_text().split()) and "HF_HUB_OFFLINE" in seen.read_text()


def test_modules_of_sentence_transformers_alone_are_opened(encoder_folder, tmp_path):
    evil = Hostile(encoder_folder, tmp_path)
    assert foreign_modules(evil.folder) == ""
    modules = json.loads((evil.folder / "modules.json").read_text())
    modules[1]["type"] = "evil.Evil"
    (evil.folder / "modules.json").write_text(json.dumps(modules))
    (evil.folder / "evil.py").write_text(evil.code())
    for name in ("SentenceTransformer", "SentenceTransformer, trust_remote_code", "saved by SentenceTransformer"):
        door = v.check_promised_door(name, evil.folder)
        assert door.status == "failed" and "evil.Evil" in door.note and evil.ran() == []


def test_nothing_is_ours_where_suzoo_is_not(language_folders, tmp_path):
    """verify is a folder that can be copied; alone it has nothing to compare code with."""
    alone = Path(shutil.copytree(ROOT / "suzoo/hub/verify", tmp_path / "check"))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, str(alone), str(language_folders["tta"])], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 1 and done.stdout.count("is not that of the installed suzoo") == 4, done.stderr


def test_an_adapter_lends_no_trust_to_its_base(language_folders, tmp_path):
    folder = Path(shutil.copytree(language_folders["tta"], tmp_path / "tta"))
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "/somewhere/else"}')
    assert "adapter_config.json" in foreign_code(folder)


def test_a_process_that_does_not_end_is_ended_and_says_why(tmp_path):
    doors, why = v.run_apart(["-c", "while True: pass"], tmp_path, 1)
    assert doors == {} and why.startswith("not answered within 1 s: a chat template or tokenizer of the folder may run")


@pytest.mark.slow
def test_a_chat_template_that_loops_for_ever_ends_with_a_sentence(language_folders, tmp_path):
    folder = Path(shutil.copytree(language_folders["dialogue"], tmp_path / "dialogue"))
    loops = "".join(f"{{% for {name} in range(99999) %}}" for name in "abc")
    (folder / "chat_template.jinja").write_text(loops + "{% endfor %}" * 3)
    doors = open_doors(folder, timeout=60)
    assert [door.status for door in doors] == ["ok"] + ["failed"] * 5  # files, and what has to render a chat
    assert "not answered within 60 s" in doors[1].note and doors[2].note == "not reached"
    assert "a chat template or tokenizer of the folder may run for ever" in doors[-1].note


def test_a_model_of_foreign_code_trains_and_verifies_when_asked_for(tmp_path):
    """The other side: with the flag its code runs, and the model inside the wrapper is the folder's."""
    from suzoo.models import CoSENTModel

    folder = tmp_path / "custom"
    make_encoder().encoder.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    (folder / "modeling_mine.py").write_text(
        "from transformers import BertConfig, BertModel\n"
        "class MineConfig(BertConfig):\n    model_type = 'mine'\n"
        "class MineModel(BertModel):\n    config_class = MineConfig\n"
    )
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "modeling_mine.MineConfig"}}
    config["auto_map"]["AutoModel"] = "modeling_mine.MineModel"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        CoSENTModel.from_pretrained(folder)
    model = CoSENTModel.from_pretrained(folder, trust_remote_code=True)
    assert type(model.encoder).__name__ == "MineModel" and model.encode(["a man"]).shape == (1, 32)


def test_every_call_of_an_auto_class_says_whom_it_trusts():
    """Without a word transformers asks on the terminal, and takes piped input for the answer."""
    silent = []
    for path in [*ROOT.glob("suzoo/**/*.py"), *ROOT.glob("training/**/*.py"), *ROOT.glob("hub_scripts/*.py")]:
        for call in ast.walk(ast.parse(path.read_text())):
            if not isinstance(call, ast.Call):
                continue
            said = any(keyword.arg in (None, "trust_remote_code") for keyword in call.keywords)
            name = ast.unparse(call.func)
            asks = re.fullmatch(r"(.*\.)?(Auto\w+|_auto_model)\.from_pretrained", name) or name == "pipeline"
            if asks and not said:
                silent.append(f"{path.relative_to(ROOT)}:{call.lineno}")
    assert silent == []


def test_training_from_a_folder_runs_nothing_of_it(language_folders, tmp_path, yes, monkeypatch, capsys):
    import train_cosent
    import train_dialogpt

    from tests.training.scripts import refused

    for script, recipe in [(train_dialogpt, "quickstart"), (train_cosent, "quickstart")]:
        for way in (a_type_of_its_own, a_tokenizer_of_its_own):
            evil = Hostile(language_folders["unilm"], tmp_path / f"{script.__name__} {way.__name__}")
            way(evil)
            flags = ["--model", evil.folder, "--output-dir", tmp_path / "out", "--max-train-samples", "8"]
            said = refused(monkeypatch, capsys, script, recipe, *flags, "--max-dev-samples", "4")
            assert said.endswith("brings along: read it, and if you trust it give --trust-remote-code")
            assert evil.ran() == []
