"""train_two_tasks.py: a second task for the encoder; and what R-Drop and VAT take as prediction of a ranking."""

from __future__ import annotations

import json
import math
import subprocess
from pathlib import Path

from recipes import frame
from recipes.modules import WithClasses
from recipes.step import preferences, rdrop_of_scores
from recipes.two_tasks import TwoTasks as Recipe

import pytest
import torch
import train_two_tasks
from safetensors.torch import load_file
from torch.nn.parallel import DistributedDataParallel

from suzoo.data import flat_batch, read_classes
from suzoo.distributed import gather, is_distributed, rank, world_size
from suzoo.losses import cosent_loss
from suzoo.models import CoSENTModel
from suzoo.multitask import min_norm, multitask_backward
from tests.ranks import run_ranks
from tests.tiny import tiny_config
from tests.training.scripts import refused, run

ROOT = Path(__file__).parent.parent.parent
TINY = ["--hidden-size", "32", "--num-layers", "1", "--max-train-samples", "512", "--max-dev-samples", "64"]
TINY += ["--epochs", "1", "--cpu-threads", "1"]
ALSO = ["--also", "embedded:classes_zh"]


@pytest.fixture(autouse=True)
def unpublished(monkeypatch):
    monkeypatch.setattr(frame, "publish", lambda *arguments: None)


def log_of(folder) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: line[key] for key in line if key != "steps_per_second"} for line in lines]


def test_both_tasks_are_learnt_logged_and_the_data_of_each_is_told(tmp_path, monkeypatch, capsys):
    flags = ["--also-dev", "embedded:classes_zh", "--also-dev-split", "dev", "--epochs", "3"]
    run(monkeypatch, train_two_tasks, "quickstart", *TINY, *ALSO, *flags, "--output-dir", tmp_path)
    assert "two tasks, proportional: 8 batches of similarity and 27 batches of also" in capsys.readouterr().out
    losses = [line for line in log_of(tmp_path) if "also_loss" in line]
    assert losses[-1]["also_loss"] < 0.7 * losses[0]["also_loss"] and "similarity_loss" in losses[-1]
    both = losses[-1]["also_loss"], losses[-1]["similarity_loss"]  # means of the steps since the line before
    assert min(both) < losses[-1]["loss"] < max(both)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["also_dev"]["accuracy"] > 0.3 and "spearman" in metrics["dev"]
    assert set(json.loads((tmp_path / "run.json").read_text())["data"]) == {"train", "dev", "also", "also_dev"}
    # the folder is an encoder like any other, with the second head beside it
    assert not any("head" in name for name in load_file(tmp_path / "model.safetensors"))
    head, classes = (
        load_file(tmp_path / "second_task/head.safetensors"),
        json.loads((tmp_path / "second_task/classes.json").read_text()),
    )
    rows = read_classes("embedded:classes_zh", split="dev")
    vectors = torch.from_numpy(CoSENTModel.from_pretrained(tmp_path).encode([row.text for row in rows]))
    predicted = torch.nn.functional.linear(vectors, head["weight"], head["bias"]).argmax(1)
    right = [classes[number] == row.labels[0] for number, row in zip(predicted.tolist(), rows, strict=True)]
    assert sum(right) / len(right) == pytest.approx(metrics["also_dev"]["accuracy"])
    assert CoSENTModel.from_pretrained(tmp_path).encode(["好"]).shape == (1, 32)


@pytest.mark.parametrize("weighting", ["primary_auxiliary", "min_norm", "inverse_gradient_norm", "pcgrad"])
def test_gradients_are_weighted_where_a_step_has_both(tmp_path, monkeypatch, weighting):
    flags = ["--mix", "together", "--weighting", weighting, "--epochs", "2", "--rdrop", "1", "--also-weight", "0.5"]
    run(monkeypatch, train_two_tasks, "quickstart", *TINY, *ALSO, *flags, "--output-dir", tmp_path)
    line = [line for line in log_of(tmp_path) if "also_loss" in line][-1]
    assert line["loss"] == pytest.approx(line["also_loss"] + line["similarity_loss"])
    weights = line["similarity_weight"], line["also_weight"]
    if weighting == "primary_auxiliary":
        assert weights[0] == pytest.approx(1.0) and weights[1] >= 0
    elif weighting == "min_norm":
        assert sum(weights) == pytest.approx(1.0) and min(weights) >= 0
    else:
        assert min(weights) > 0


class Killed(BaseException):
    pass


def test_a_killed_run_resumes_to_the_same_bits(tmp_path, monkeypatch):
    flags = [*TINY, *ALSO, "--evaluate-every", "4", "--epochs", "0.4", "--micro-batches", "2"]
    run(monkeypatch, train_two_tasks, "quickstart", *flags, "--output-dir", tmp_path / "whole")
    forward, calls = WithClasses.forward, []

    def killed(self, *arguments, **options):
        calls.append(1)
        if len(calls) == 21:
            raise Killed
        return forward(self, *arguments, **options)

    monkeypatch.setattr(WithClasses, "forward", killed)
    with pytest.raises(Killed):
        run(monkeypatch, train_two_tasks, "quickstart", *flags, "--output-dir", tmp_path / "cut")
    assert list((tmp_path / "cut/checkpoints").glob("step-*"))
    monkeypatch.setattr(WithClasses, "forward", forward)
    run(monkeypatch, train_two_tasks, "quickstart", *flags, "--output-dir", tmp_path / "cut", "--resume")
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert log_of(tmp_path / "whole")[-1] == log_of(tmp_path / "cut")[-1]


def test_flags_that_contradict_each_other_are_one_sentence(tmp_path, monkeypatch, capsys):
    def message(*arguments):
        options = ["quickstart", *TINY, "--output-dir", tmp_path / "out", "--overwrite"]
        return refused(monkeypatch, capsys, train_two_tasks, *options, *arguments)

    several = tmp_path / "several.jsonl"
    several.write_text('{"text": "a", "label": ["x", "y"]}\n' * 40)
    (tmp_path / "other.jsonl").write_text('{"text": "a", "label": "x"}\n{"text": "b", "label": "y"}\n')
    assert "needs both tasks in every step: --mix together" in message(*ALSO, "--weighting", "min_norm")
    assert "--also-weight must be 0 or more, not -1" in message("--also-weight", "-1")
    assert "--vat-weight must be 0 or more, not -1" in message("--vat", "1", "--vat-weight", "-1")
    together = ["--mix", "together", "--weighting", "min_norm"]
    assert "use --micro-batches 1" in message(*ALSO, *together, "--micro-batches", "2")
    assert "one class each" in message("--also", several)
    other = several.with_name("other.jsonl")
    assert "lacks: x, y" in message("--also-dev", other)
    assert "knows no rows" in message("--vat", "1", "--disturbance-norm", "sample")
    with pytest.raises(ValueError, match="which fp16's loss scale does not reach"):
        Recipe(mix="together", weighting="min_norm", precision="fp16").check()


def gradients_of_both() -> list[dict[str, torch.Tensor]]:
    """Of an alternating pair of steps, and of both tasks in one weighted step, on this rank's share."""
    torch.manual_seed(0)
    model = CoSENTModel(tiny_config(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)).double()
    module = WithClasses(model, 3).double()
    prepared = DistributedDataParallel(module) if is_distributed() else module
    rows = torch.randint(5, 40, (8, 6)).tolist()
    mine = slice(rank() * 8 // world_size(), (rank() + 1) * 8 // world_size())
    batch, labels = flat_batch(rows[mine]), torch.arange(4.0)
    classes = (torch.arange(8) % 3)[mine]

    def similarity():
        embeddings = prepared(**batch).sentence_embedding
        return cosent_loss(gather(torch.cosine_similarity(embeddings[0::2], embeddings[1::2])), labels)

    def also():
        return torch.nn.functional.cross_entropy(prepared(classify=True, **batch), classes)

    results = []
    for step in (
        lambda: (similarity().backward(), also().backward()),
        lambda: multitask_backward([similarity(), also()], model.parameters(), min_norm),
    ):
        module.zero_grad()
        step()
        results.append({name: value.grad for name, value in module.named_parameters() if value.requires_grad})
    return results


def test_two_ranks_take_the_steps_of_one_process():
    expected = gradients_of_both()
    for results in run_ranks(gradients_of_both):
        for step, grads in enumerate(expected):
            for name, grad in grads.items():
                torch.testing.assert_close(results[step][name], grad, atol=1e-6, rtol=1e-5, msg=f"{step} {name}")


def test_rdrop_of_scores_is_the_divergence_of_all_preferences():
    torch.manual_seed(0)
    scores = torch.randn(5, 2, dtype=torch.double, requires_grad=True)
    labels = torch.tensor([0.0, 1, 1, 2, 0])

    def loss(column):
        return cosent_loss(column, labels, scale=3.0)

    def kl(p: float, q: float) -> float:
        return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))

    total = 0.0
    for a in range(5):
        for b in range(5):
            p, q = (1 / (1 + math.exp(-3.0 * float(scores[a, k] - scores[b, k]))) for k in (0, 1))
            total += (kl(p, q) + kl(q, p)) / 25
    expected = (loss(scores[:, 0]) + loss(scores[:, 1])) / 2 + 2.0 / 4 * total
    torch.testing.assert_close(rdrop_of_scores(scores, loss, alpha=2.0, scale=3.0), expected)
    assert torch.autograd.gradcheck(lambda s: rdrop_of_scores(s, loss, alpha=2.0, scale=3.0), scores)
    column = scores[:, 0]
    assert rdrop_of_scores(column, loss, alpha=0.0, scale=3.0) == loss(column)
    assert preferences(column, 3.0).softmax(-1)[1, 0, 0].item() == pytest.approx(
        torch.sigmoid(3 * (column[1] - column[0])).item()
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "recipe", "flags"),
    [
        ("two_tasks", "quickstart", ["--mix", "together", "--weighting", "min_norm"]),
        ("two_tasks", "simbert", ["--batch-size", "16", "--max-scored", "2"]),
        ("cosent", "quickstart", ["--loss", "sbert"]),
        ("contrastive", "classes", []),
    ],
)
def test_what_wraps_the_encoder_trains_in_shards(tmp_path, name, recipe, flags):
    """Evaluation calls the encoder inside; as part of the outer unit its weights would still be in shards."""
    config, script = ROOT / "training/accelerate/fsdp2_cpu.yaml", ROOT / f"training/train_{name}.py"
    command = ["accelerate", "launch", "--config_file", str(config), str(script), recipe, *TINY[:-2], *flags]
    done = subprocess.run([*command, "--output-dir", str(tmp_path)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"verified: {tmp_path}" in done.stdout and "FSDP, 2" in done.stderr
