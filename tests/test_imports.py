"""What starting costs, in modules: `suzoo encode` loads little beside what the stock class loads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from suzoo.models import CoSENTModel
from tests.tiny import tiny_config, tiny_tokenizer

ROOT = Path(__file__).parent.parent
PROGRAM = """
import json, sys
from transformers import AutoTokenizer, BertModel
folder, text, out = sys.argv[1:]
stock, tokenizer = BertModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
stock(**tokenizer("a", return_tensors="pt"))
before = set(sys.modules)
import suzoo.models
library = set(sys.modules) - before
from suzoo.cli import main
assert main(["encode", folder, text, "--output", out]) == 0
command = set(sys.modules) - before
print(json.dumps([len(before), sorted(library), sorted(command)]))
"""


def test_encode_loads_little_beside_the_stock_class(tmp_path):
    folder = tmp_path / "model"
    CoSENTModel(tiny_config()).save_pretrained(folder, tokenizer=tiny_tokenizer())
    (tmp_path / "text.txt").write_text("a text\n")
    arguments = [str(folder), str(tmp_path / "text.txt"), str(tmp_path / "out.npy")]
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, cwd=ROOT, check=True
    )
    num_before, library, command = json.loads(run.stdout.splitlines()[-1])
    foreign = [[name for name in names if name.split(".")[0] != "suzoo"] for names in (library, command)]
    # on 2026-11-28 they were 8 and 40 of 3,200
    assert len(foreign[0]) < 0.03 * num_before, foreign[0]
    assert len(foreign[1]) < 0.1 * num_before, foreign[1]
    heavy = {"datasets", "pandas", "accelerate", "peft", "matplotlib", "sacrebleu"}
    assert not heavy & {name.split(".")[0] for name in command}


SCRIPTS = [
    *sorted(ROOT.glob("training/train_*.py")),
    *sorted(ROOT.glob("hub_scripts/*.py")),
]


LARGE = {"torch", "transformers", "accelerate", "datasets", "tokenizers", "pandas"}


def imported(stderr: str) -> set[str]:
    """Packages, by what `python -X importtime` writes."""
    found = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in stderr.splitlines() if "|" in line}
    assert "argparse" in found
    return found


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_help_waits_for_no_large_library(script):
    command = [sys.executable, "-X", "importtime", str(script), "--help"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert "--" in run.stdout
    assert not LARGE & imported(run.stderr)


@pytest.mark.parametrize(
    "flags, told",
    [
        (("cosent", "quickstart", "--data", "pairs.tsw.jsonl"), "there is no file or folder pairs.tsw.jsonl"),
        (("cosent", "quickstart", "--data", "pairs.jsonl"), "--data pairs.jsonl is one file: give the file of the dev"),
        (("cosent", "finetune", "--model", "./out/bert"), "--model: there is no folder ./out/bert"),
        (("unilm", "quickstart", "--lr", "-1"), "--lr must be above 0, not -1.0"),
        (("distill", "finetune"), "whose vectors shall the student learn? Give a trained encoder by --teacher"),
    ],
)
@pytest.mark.parametrize("way", ["script", "command", "launched"])
def test_a_mistake_waits_for_no_large_library(tmp_path, way, flags, told):
    (tmp_path / "pairs.jsonl").write_text("{}\n")
    begin = [sys.executable, "-X", "importtime"]
    begin += [str(ROOT / f"training/train_{flags[0]}.py")] if way == "script" else ["-m", "suzoo", "train"]
    begin += {"script": [], "command": [flags[0]], "launched": ["--config", "ddp_cpu", flags[0]]}[way]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    run = subprocess.run([*begin, *flags[1:]], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert run.returncode == 2 and told in run.stderr, run.stderr
    assert not LARGE & imported(run.stderr)
    assert not (tmp_path / "out").exists()
