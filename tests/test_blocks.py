"""Every block of the pages and READMEs is run by a test, or stands below with the reason why not.

Python blocks run in `test_site.py`, `test_readme.py`, `optimizers/test_docs.py` and `training/test_ray.py`; rows in
json are read in `test_site.py`. Shell blocks run here under `slow`, one page in one folder, as a user runs them but
smaller: two steps of training, tiny models under the names that the page expects, CPU processes for GPUs, a loopback
Hub, S3 by moto. Chinese pages have the same blocks: `test_site.py` compares them.
"""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import ClassVar

import pytest
from accelerate.state import AcceleratorState
from huggingface_hub import constants

from suzoo import terminal
from suzoo.cli import main
from suzoo.data.embedded import load
from suzoo.hub.golden import check_all_with_suzoo
from suzoo.models import CoSENTModel
from tests.demo.folders import make_classifier
from tests.hub.conftest import as_user  # noqa: F401  fixture
from tests.hub.folders import RUN, finish_language_run, finish_run, make_cross_encoder, make_language_model
from tests.hub.server import LoopbackHub
from tests.optimizers.test_docs import PAGES as OPTIMIZERS
from tests.pages import ROOT, blocks
from tests.ranks import free_port
from tests.test_readme import READMES
from tests.test_site import CHINESE, GUIDES, METHODS
from tests.tiny import tiny_config
from tests.training.test_zoo import members, sources, tiny_base, trained_here  # noqa: F401  fixtures

PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in PAGES)
ENGLISH = [page for page in PAGES if page not in CHINESE.values()]

# where the Python blocks of a page run
PYTHON = dict.fromkeys([*GUIDES, *METHODS], "test_site.py") | dict.fromkeys(READMES, "test_readme.py")
PYTHON |= dict.fromkeys((f"docs/optimizers/{page.name}" for page in OPTIMIZERS), "optimizers/test_docs.py")
PYTHON |= {"docs/processes.md": "training/test_ray.py", "CONTRIBUTING.md": "optimizers/test_docs.py"}

# a text block -> why it is not compared with what a command prints
SHOWN = {
    "README.md": "the whole quickstart, whose scores differ from machine to machine; followed before each release",
    "README_zh.md": "as in README.md",
    "docs/start.md": "as in README.md",
}
# a command -> why it is not run
NOT_RUN = {
    r"pip install .*": "installs; CI begins with it, and the job `release` tries the wheel",
    r"jupyter notebook .*": "opens a browser; test_notebooks.py runs the notebooks",
    r"pytest": "the tests themselves",
    r"hf auth login": "asks for a token on the terminal",
    r"hf upload owner/demo out/space .*": "the loopback Hub has no Spaces; the app that would be sent is run",
}
# what a page has, for what a machine for tests has
STAND_INS = {
    r"--config (ddp|fsdp2)\b(?!_)": r"--config \1_cpu",
    r"--multi_gpu": "--config_file training/accelerate/ddp_cpu.yaml",
    r"--(num-processes|nproc-per-node) \d+": r"--\1 2",
    r"--num_processes 16": "--num_processes 2",
    r"--main_process_ip \S+": "--main_process_ip 127.0.0.1",
    r"--max-steps 100000": "",
    r"--batch-size 2048 --micro-batches 64": "--batch-size 256 --micro-batches 8",
    r"(export-onnx) MODEL MODEL/": r"\1 out/finetune out/finetune/",
    r"(rerank) MODEL": r"\1 out/cross-finetune",
    r"(chat) MODEL": r"\1 out/dialogpt-history",
    r"(summarize) MODEL": r"\1 out/unilm",
    r"(score) MODEL": r"\1 out/tta",
    r"(explain) MODEL": r"\1 out/classifier",
    r"(slim-vocab) MODEL": r"\1 out/finetune",
    r"demo MODEL OTHER-MODEL": "demo out/finetune out/tta",
    r"OTHER-FOLDER": "out/finetune",
}
# rows for the files that a page's training reads and does not make: by script or recipe, for --data, --dev and the rest
PAIRS, QUERIES = "pairs_zh", "queries_zh"
CORPORA = {
    "cosent": {"": PAIRS},
    "cross_encoder": {"": PAIRS},
    "contrastive": {"": QUERIES},
    "simcse": {"--data": "text_zh", "--dev": PAIRS},
    "distill": {"--data": "text_zh", "--dev": PAIRS},
    "two_tasks": {"--data": PAIRS, "--dev": PAIRS, "": "classes_zh"},
    "simbert": {"": f"{PAIRS} --columns text1 text2"},
    "classifier": {"": "classes_zh"},
    "dialogpt": {"": "dialogues_zh"},
    "unilm": {"": "titles_zh"},
    "tta": {"": "text_zh"},
}
FILES = {"documents.txt": "text_zh", "articles.txt": "titles_zh --rows 20", "dev.tsv": PAIRS}  # of other commands
FEW = ["--rows", "400"]  # of an embedded corpus
SMALL = ["--max-steps", "2", "--max-train-samples", "256", "--max-dev-samples", "16", "--cpu-threads", "1"]


def lines(block: str) -> list[str]:
    """The commands of a shell block."""
    bare = (re.sub(r"\s+#.*", "", line).strip() for line in block.replace("\\\n", " ").splitlines())
    return [re.sub(r"  +", " ", part) for line in bare if line and line[0] != "#" for part in line.split(" && ")]


def commands(page: str) -> list[str]:
    return [command for block in blocks(page, "bash") for command in lines(block)]


def with_stand_ins(text: str) -> str:
    for pattern, stand_in in STAND_INS.items():
        text = re.sub(pattern, stand_in, text)
    return text.replace("29500", str(free_port()))


def is_run(command: str) -> bool:
    return not any(re.fullmatch(pattern, command) for pattern in NOT_RUN)


def test_every_block_is_run_or_has_a_reason():
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        kinds = re.findall(r"^```(.*)$", text, re.MULTILINE)[::2]
        unknown = set(kinds) - {"bash", "python", "json", "text"}
        assert not unknown, f"{page} has blocks that no test knows: {unknown}"
        english = next((one for one, chinese in CHINESE.items() if chinese == page), page)
        assert "python" not in kinds or english in PYTHON, f"no test runs the Python blocks of {page}"
        assert "json" not in kinds or english in GUIDES, f"no test reads the rows that {page} shows"
        assert "text" not in kinds or english in SHOWN, f"{page} shows output that no test compares"
    written = [command for page in ENGLISH for command in commands(page)]
    assert [pattern for pattern in NOT_RUN if not any(re.fullmatch(pattern, one) for one in written)] == []
    text = "\n".join(written)
    assert [pattern for pattern in STAND_INS if not re.search(pattern, text)] == []


def test_both_readmes_have_the_same_commands():
    english, chinese = (
        [re.sub('".*?"', '""', block) for block in blocks(page, "bash")] for page in ("README.md", "README_zh.md")
    )
    assert english == chinese


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> Path:
    """Tiny models under the names of the pages' own, and of the Hub's."""
    folder = tmp_path_factory.mktemp("given")
    wide = {"hidden_size": 384, "num_hidden_layers": 4, "num_attention_heads": 12, "intermediate_size": 768}
    for name, sizes in {"quickstart": {}, "theirs": {}, "finetune": wide}.items():  # the last is a teacher
        config = tiny_config(max_position_embeddings=512, **sizes)
        finish_run(CoSENTModel(config, pooling="mean").eval(), folder / "out" / name)
    finish_run(make_cross_encoder(), folder / "out/cross-finetune")
    make_classifier(folder / "out/classifier")
    (folder / "out/classifier/run.json").write_text(json.dumps(RUN))
    kinds = {"dialogpt-history": "dialogue", "dialogpt-backward": "dialogue", "dialogpt": "dialogue"}
    for name, kind in {**kinds, "unilm": "unilm", "tta": "tta"}.items():
        finish_language_run(kind, folder / "out" / name)
    for name in ("hfl/chinese-macbert-base", "bert-base-chinese"):
        model, tokenizer = make_language_model("mlm")
        model.config.max_position_embeddings = tokenizer.model_max_length = 512  # as those of the Hub
        model.config.num_hidden_layers = 4  # as many as a student of theirs shall have
        type(model)(model.config).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    tiny_base(folder / "intfloat/multilingual-e5-small")
    (folder / "training").symlink_to(ROOT / "training")
    return folder


class Walk:
    """The commands of a page, one after the other, in one folder.

    Args:
        environment: of programs other than suzoo, which runs in this process.
    """

    launched: ClassVar[set[str]] = set()

    def __init__(self, folder: Path, monkeypatch, environment: dict[str, str]):
        self.folder, self.monkeypatch, self.environment = folder, monkeypatch, environment
        self.made: set[str] = set()

    def run(self, command: str) -> None:
        """Prints the seconds it took, for `pytest -rP`."""
        start = time.perf_counter()
        self.start(with_stand_ins(command))
        print(f"{time.perf_counter() - start:7.1f} s  {command}", file=sys.stderr)

    def start(self, command: str) -> None:
        words = shlex.split(command)
        if words[:2] == ["suzoo", "demo"] or words[-1].endswith("app.py"):
            self.serve(words)
        elif words[0] in ("accelerate", "torchrun") or words[:3] == ["suzoo", "train", "--config"]:
            self.launch(words)
        elif words[0] == "suzoo":
            self.suzoo(words)
        else:
            subprocess.run(["bash", "-ec", command], cwd=self.folder, env=self.environment, check=True, timeout=900)

    def suzoo(self, words: list[str]) -> None:
        """In this process, where torch is loaded already."""
        if words[1] == "examples":
            self.made.add(words[3])
            words = [*words, *(() if "--rows" in words else FEW)]
        for name in FILES.keys() & set(words):
            if name not in self.made and not Path(name).exists():
                self.example(FILES[name], name, "dev")
        if words[1] == "train":
            self.give_data(words)
            words = smaller(words)
            AcceleratorState._reset_state(reset_partial_state=True)
        self.monkeypatch.setattr(sys, "argv", words)
        self.monkeypatch.setattr(sys, "stdin", io.StringIO("你好\n" if words[1] == "chat" else ""))
        self.monkeypatch.setattr(terminal, "called_as", None)
        try:
            status = main(words[1:])
        except SystemExit as end:  # of scripts
            status = end.code
        assert not status, words

    def give_data(self, words: list[str]) -> None:
        script, recipe = words[2:4]
        for flag in ("--data", "--dev", "--also", "--also-dev"):
            name = words[words.index(flag) + 1] if flag in words else "embedded:"
            if name not in self.made and not name.startswith(("embedded:", "s3://")):
                rows = CORPORA.get(recipe, CORPORA[script])
                self.example(rows.get(flag, rows.get("", "")), name, "dev" if "dev" in flag else "train")

    def example(self, rows: str, name: str, split: str) -> None:
        corpus, *options = rows.split()
        few = () if "--rows" in options else FEW
        assert main(["examples", corpus, name, "--split", split, "--overwrite", *options, *few]) == 0

    def launch(self, words: list[str]) -> None:
        """Several processes: until they have found each other and their data, which is most of what a launcher can
        spoil; what they train is tested elsewhere. On two machines, both. Pages have such commands in common."""
        command = re.sub(r"port \d+", "", shlex.join(words))
        if command in self.launched:
            return
        ranks = range(2 if "--machine_rank" in words else 1)
        words = [*words, *SMALL, "--preflight-only", *(() if "--output-dir" in words else ("--output-dir", "out/new"))]
        started = []
        for rank in ranks:
            folder = self.folder / f"machine-{rank}" if rank else self.folder
            if rank:
                words[words.index("--machine_rank") + 1] = str(rank)
                folder.mkdir()
                (folder / "training").symlink_to(ROOT / "training")
            started.append(subprocess.Popen(words, cwd=folder, env=self.environment))
        assert [process.wait(900) for process in started] == [0 for _ in ranks], words
        self.launched.add(command)

    def serve(self, words: list[str]) -> None:
        """A page that answers, until Ctrl-C."""
        process = subprocess.Popen(words, cwd=self.folder, env=self.environment, stdout=subprocess.PIPE, text=True)
        with process:
            assert process.stdout
            address = next(re.findall(r"http://127\S+", line)[0] for line in process.stdout if "http://127" in line)
            with urllib.request.urlopen(address, timeout=300) as answer:
                assert answer.status == 200
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=300)
        assert process.returncode in (0, 130, -signal.SIGINT)


def smaller(words: list[str]) -> list[str]:
    if "--help" in words or "--from-run" in words:
        return words
    again = [] if "--resume" in words else ["--overwrite"]
    small = list(SMALL)
    if "--batch-size" in words:  # a step has as many rows
        small[3] = words[words.index("--batch-size") + 1]
    if "--stream" in words:  # which has no number of rows
        del small[2:4]
    return [*words, *small, *again]


def opened_here(program: list[str], folder, *_, **options) -> tuple[dict, str]:
    """For `run_apart` of suzoo's own class, which would import torch anew, too."""
    return {door.name: door for door in check_all_with_suzoo(folder, program[2:])}, ""


def within_the_text() -> list[str]:
    """Training commands that pages name in a sentence or a table, where these are whole."""
    texts = ((ROOT / page).read_text(encoding="utf-8") for page in ENGLISH)
    text = "\n".join(re.sub(r"```.*?```", "", text, flags=re.DOTALL) for text in texts)
    name, flag = "([a-z_]+)", r" --[\w-]+(?: [\w/.-]+)?"
    found = re.findall(rf"`[\w /]*?(?:train_{name}\.py|suzoo train {name}) {name}((?:{flag})*)`", text)
    return sorted({f"suzoo train {script or name} {recipe}{flags}" for script, name, recipe, flags in found})


def programs(folder: Path, **named: str) -> str:
    """A folder of small shell programs, for PATH."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, line in named.items():
        (folder / name).write_text(f"#!/bin/sh\n{line}\n")
        (folder / name).chmod(0o755)
    return str(folder)


def stand_ins_of(page: str, folder: Path, request, walk: Walk) -> None:
    """What single pages need besides."""
    text = (ROOT / page).read_text(encoding="utf-8")
    if "s3://" in text:
        request.getfixturevalue("bucket")
    if "zoo build" in text:
        request.getfixturevalue("members")
        trained_here(walk.monkeypatch)
        (folder / "FOLDER").symlink_to(request.getfixturevalue("sources"))
    if "convert_bert4keras" in text:
        from tests.hub.test_convert_bert4keras import arrays_of, model_of, write_files, write_keras

        write_files(folder)
        write_keras(folder / "model.weights", arrays_of(model_of()))
    if re.search(r"suzoo demo|make_space", "\n".join(blocks(page, "bash"))):
        pytest.importorskip("gradio", reason='the demo needs gradio: pip install "suzoo[demo]"')


@pytest.fixture
def bucket(monkeypatch):
    """s3://bucket/text/ with rows in two shards, in a server on the loopback interface."""
    pytest.importorskip("s3fs", reason='pip install "suzoo[trainers]"')
    server = pytest.importorskip("moto.server", reason='pip install "suzoo[trainers]"').ThreadedMotoServer(
        ip_address="127.0.0.1", port=0
    )
    import fsspec

    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "anything")
    store = fsspec.filesystem("s3", skip_instance_cache=True)
    store.mkdir("bucket")
    texts = [row["text"] for row in load("text_zh")]
    for number in range(2):
        with fsspec.open(f"s3://bucket/text/{number}.jsonl.gz", "wt", encoding="utf-8", compression="gzip") as file:
            file.writelines(json.dumps({"text": text}) + "\n" for text in texts[number::2])
    yield
    server.stop()


@pytest.fixture
def walk(given, tmp_path, monkeypatch) -> Walk:
    folder = tmp_path / "page"
    shutil.copytree(given, folder, symlinks=True)
    monkeypatch.chdir(folder)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path[1:]])}
    environment["PET_MASTER_PORT"] = str(free_port())  # of torchrun
    # the doors of a run open in processes that import torch anew, and are tested elsewhere
    monkeypatch.setattr("suzoo.hub.check.verify", lambda folder, **options: [])
    monkeypatch.setattr("suzoo.hub.check.run_apart", opened_here)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return Walk(folder, monkeypatch, environment)


@pytest.mark.slow
@pytest.mark.parametrize("command", within_the_text())
def test_a_training_command_within_the_text_is_taken(command, walk):
    """With the data that it is for."""
    given = " --teacher out/finetune" if " distill " in command else ""
    given += " --data own.jsonl --dev own_dev.jsonl" if " finetune" in command else ""
    walk.run(f"{command}{given} --preflight-only --output-dir out/new --max-length 64")  # what tiny models read


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in ENGLISH if page != "README_zh.md" and any(map(is_run, commands(page)))]
)
def test_the_commands_of_a_page_run(page, walk, request, as_user):  # noqa: F811
    stand_ins_of(page, walk.folder, request, walk)
    with LoopbackHub({"hf_owner": "owner", "hf_OWNER": "OWNER"}) as hub:
        as_user(hub, "hf_OWNER" if "OWNER" in (ROOT / page).read_text(encoding="utf-8") else "hf_owner")
        for block in blocks(page, "bash"):
            if block.startswith("#!"):
                run_job(block, walk)
                continue
            for command in filter(is_run, lines(block)):
                walk.run(command)


def run_job(block: str, walk: Walk) -> None:
    """A batch script of SLURM, on the one machine that there is."""
    block = with_stand_ins(block)
    assert block.count(" --resume") == 1
    block = block.replace(" --resume", f" --resume {shlex.join(SMALL)} --preflight-only")
    tools = programs(walk.folder / "bin", srun='exec "$@"', scontrol="echo 127.0.0.1")
    job = {"SLURM_NNODES": "1", "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "one"}
    environment = {**walk.environment, **job, "PATH": f"{tools}{os.pathsep}{walk.environment['PATH']}"}
    subprocess.run(["bash", "-ec", block], cwd=walk.folder, env=environment, check=True, timeout=900)
