"""Every script on two processes, data parallel and in shards: cut off, and resumed by two and by one."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path

from recipes import frame

import pytest
import torch
from safetensors.torch import load_file

from suzoo.engine import RunFolder
from tests.training.scripts import run, run_on_two_ranks
from tests.training.test_train_distill import make_teacher

FLAGS = ["quickstart", "--hidden-size", "32", "--num-layers", "1", "--dropout", "0", "--cpu-threads", "1"]
FLAGS += ["--max-train-samples", "192", "--max-dev-samples", "16", "--max-steps", "8", "--evaluate-every", "3"]
LANGUAGE = ["--max-scored", "0", "--micro-batch-tokens", "512"]
SCRIPTS = {
    "cosent": [],
    "two_tasks": [],
    "contrastive": [],
    "cross_encoder": ["--model", "None"],
    "classifier": ["--max-train-samples", "600"],
    "dialogpt": LANGUAGE,
    "unilm": LANGUAGE,
    "tta": LANGUAGE,
    "distill": ["--evaluate-every", "8"],
}
# its teacher does not know most characters, so that vectors of texts are equal but for rounding: a Spearman of few rows
TIES = {"distill": 0.05}


class Cut(BaseException):
    """As SIGKILL, the processes end without a word."""


def cut_behind_step_5() -> None:
    """On a rank: it ends behind the sixth step, before the checkpoint of it counts."""
    write = RunFolder.prune

    def prune(self, keep: int, best: int | None) -> None:
        if (self.checkpoints / "step-00000006").exists():
            shutil.rmtree(self.checkpoints / "step-00000006")
            raise Cut
        write(self, keep, best)

    RunFolder.prune = prune


def dev_of(folder: Path) -> dict[str, float]:
    return json.loads((folder / "metrics.json").read_text())["dev"]


@pytest.mark.slow
@pytest.mark.parametrize("config", ["ddp_cpu", "fsdp2_cpu"])
@pytest.mark.parametrize("name", SCRIPTS)
def test_two_processes_are_cut_and_two_or_one_go_on(tmp_path, monkeypatch, caplog, name, config):
    """Two: to the bits of the run that was never cut. One: to its weights and scores up to rounding, as it says."""
    script, flags = importlib.import_module(f"train_{name}"), [*FLAGS, "--save-every", "1", *SCRIPTS[name]]
    if name == "distill":
        make_teacher().save_pretrained(tmp_path / "teacher")
        flags += ["--teacher", tmp_path / "teacher"]
    whole, cut, again = (tmp_path / folder for folder in ("whole", "two", "one"))
    run_on_two_ranks(config, script, *flags, "--output-dir", whole)
    with pytest.raises(AssertionError, match="Cut"):
        run_on_two_ranks(config, script, *flags, "--output-dir", cut, before=cut_behind_step_5)
    assert not (cut / "model.safetensors").exists() and (cut / "checkpoints/step-00000005").exists()
    shutil.copytree(cut, again)

    run_on_two_ranks(config, script, *flags, "--output-dir", cut, "--resume")
    assert (cut / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert (cut / "metrics.json").read_bytes() == (whole / "metrics.json").read_bytes()

    monkeypatch.setattr(frame, "publish", lambda *arguments: None)
    run(monkeypatch, script, *flags, "--output-dir", again, "--resume")
    assert "the run began on 2 process(es) and goes on with 1" in caplog.text
    expected, found = (load_file(folder / "model.safetensors") for folder in (whole, again))
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, atol=2e-4, rtol=2e-3, msg=key)
    assert dev_of(again) == pytest.approx(dev_of(whole), abs=TIES.get(name, 0.02), rel=0.01)
