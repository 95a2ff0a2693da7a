"""train_cosent.py as a user runs it: from nothing to a verified folder, killed and resumed, and with bad input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

from recipes import choices, frame, losses
from recipes.cosent import CoSENT

import pytest
import torch
import train_cosent
import train_cross_encoder
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from suzoo.data import readers
from suzoo.hub import verify
from suzoo.models import CoSENTModel, _stock_encoder
from suzoo.models._versions import MODERNBERT_OF_ONE_KIND
from tests.hub.folders import make_cross_encoder, make_encoder, open_doors_here
from tests.tiny import tiny_tokenizer
from tests.training.scripts import refused, run, run_on_two_ranks, start_script

ROOT = Path(__file__).parent.parent.parent
TINY = [
    "--hidden-size",
    "32",
    "--num-layers",
    "1",
    "--max-train-samples",
    "256",
    "--max-dev-samples",
    "64",
    "--epochs",
    "2",
    "--batch-size",
    "32",
    "--cpu-threads",
    "1",
]

needs_modernbert = pytest.mark.skipif(not MODERNBERT_OF_ONE_KIND, reason="refused: needs transformers 5.17")

TINY_STEPS = ["--max-train-samples", "64", "--max-dev-samples", "16", "--epochs", "1", "--cpu-threads", "1"]


def test_from_nothing_to_a_verified_folder(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "run"
    flags = ["--micro-batches", "2", "--tracker", "tensorboard"]
    run(monkeypatch, train_cosent, "quickstart", "--output-dir", folder, *TINY, *flags)
    printed = capsys.readouterr().out
    assert "spearman" in printed and printed.strip().endswith(f"verified: {folder}")
    record = json.loads((folder / "run.json").read_text())
    assert record["recipe"]["epochs"] == 2 and record["recipe"]["micro_batches"] == 2 and record["synthetic"]
    assert record["data"]["train"]["rows"] == 256 and len(record["data"]["train"]["sha256"]) == 64
    metrics = json.loads((folder / "metrics.json").read_text())
    card = (folder / "README.md").read_text()
    assert f"{metrics['dev']['spearman']:.4f}" in card and "synthetic" in card
    assert {path.name for path in folder.iterdir()} >= {
        "curves.png",
        "metrics.jsonl",
        "golden.safetensors",
        "checkpoints",
    }
    assert CoSENTModel.from_pretrained(folder).encode(["今天天气很好"]).shape == (1, 32)
    # the tracker was sent what stands in the log
    events = EventAccumulator(str(folder / "suzoo")).Reload()
    logged = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    logged = [row | {f"dev/{name}": value for name, value in row.get("dev", {}).items()} for row in logged]
    for name in ("loss", "lr", "dev/spearman"):
        expected = [(row["step"], pytest.approx(row[name])) for row in logged if name in row]
        assert [(event.step, event.value) for event in events.Scalars(name)] == expected and expected


def test_several_sources_through_the_cache_train_the_same_weights_as_through_memory(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(frame, "publish", lambda *args: None)
    monkeypatch.setenv("SUZOO_CACHE", str(tmp_path / "cache"))
    for part in range(2):
        rows = [{"text1": f"text {i % 9}", "text2": f"text {i % 5} {part}", "label": i % 4} for i in range(40)]
        (tmp_path / f"part-{part}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    sources = [[tmp_path / "part-0.jsonl", tmp_path / "part-1.jsonl"], [tmp_path / "part-*.jsonl"], [tmp_path]]
    flags = [
        "--hidden-size",
        "32",
        "--num-layers",
        "1",
        "--batch-size",
        "16",
        "--cpu-threads",
        "1",
        "--num-workers",
        "2",
    ]
    weights = []
    for number, (data, limit) in enumerate(zip(sources, [1 << 30, 0, 0], strict=True)):
        monkeypatch.setattr(readers, "IN_MEMORY_BYTES", limit)
        folder = tmp_path / f"run-{number}"
        command = ["--data", *data, "--dev", tmp_path / "part-0.jsonl", "--output-dir", folder, *flags]
        run(monkeypatch, train_cosent, "quickstart", *command)
        weights.append(load_file(folder / "model.safetensors"))
        record = json.loads((folder / "run.json").read_text())
        assert record["data"]["train"]["rows"] == 80
    for name, value in weights[0].items():
        assert all(torch.equal(value, other[name]) for other in weights[1:]), name
    assert (tmp_path / "cache/tokens").is_dir()
    assert "40 of 40 dev rows have the texts of a training row" in caplog.text


@pytest.mark.parametrize("arguments", [["--loss", "bce", "--vat", "0.01"], ["--lora-r", "4", "--rdrop", "1"]])
def test_a_verified_cross_encoder(tmp_path, monkeypatch, capsys, arguments):
    data = tmp_path / "pairs.jsonl"
    rows = [{"text1": f"text {i % 7}", "text2": f"text {i % 5}", "score": int(i % 7 == i % 5)} for i in range(64)]
    data.write_text("\n".join(map(json.dumps, rows)))
    folder = tmp_path / "run"
    open_doors_here(monkeypatch)
    run(
        monkeypatch,
        train_cross_encoder,
        "scratch",
        "--data",
        data,
        "--dev",
        data,
        "--output-dir",
        folder,
        *TINY,
        *arguments,
    )
    assert "verified" in capsys.readouterr().out


HIDDEN = (
    "--optimizer tiger --lr 3e-3 --optimizer-options accumulation_steps=2 rms_floor=1e-3 --micro-batches 2 "
    "--max-grad-norm None"
)


@pytest.mark.parametrize(
    "flags",
    [
        *(["--gradient-checkpointing"], ["--loss", "sbert"], HIDDEN.split()),
        ["--fgm", "0.01", "--rdrop", "1", "--weissi", "1e-5"],
        ["--gradient-penalty", "0.01", "--vat", "0.01"],
        pytest.param(["--encoder", "modernbert", "--window", "4"], marks=needs_modernbert),
    ],
)
def test_every_way_of_training_learns_something(tmp_path, monkeypatch, flags):
    monkeypatch.setattr(frame, "publish", lambda *args: None)  # verified above; these change the training only
    run(monkeypatch, train_cosent, "quickstart", "--output-dir", tmp_path / "run", *TINY, *flags)
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < losses[0]


@needs_modernbert
@pytest.mark.parametrize("window", [1, 3])
def test_the_window_of_a_stock_encoder_is_a_window(window):
    """With one layer the state of a token depends on those at a distance under it and on no others, padded or not."""
    torch.manual_seed(0)
    recipe = CoSENT(output_dir="", encoder="modernbert", window=window, num_layers=1, hidden_size=32, dropout=0.0)
    model = choices.make_encoder(recipe, tiny_tokenizer()).eval()
    ids = torch.arange(5, 17)[None] % len(tiny_tokenizer())
    changed = ids.clone()
    changed[0, 6] = 4
    for given in ({}, {"lengths": [12]}):
        states = [model(input_ids=some.flatten() if given else some, **given) for some in (ids, changed)]
        differs = (states[0].last_hidden_state != states[1].last_hidden_state)[0].any(-1)
        assert differs.nonzero().flatten().tolist() == list(range(7 - window, 6 + window))
    assert model.ragged


def test_a_modernbert_that_transformers_cannot_read_again_is_refused(monkeypatch):
    monkeypatch.setattr(choices, "MODERNBERT_OF_ONE_KIND", False)
    with pytest.raises(ValueError, match=r"needs transformers 5\.17 or newer, and this is \d"):
        choices.make_encoder(CoSENT(output_dir="", encoder="modernbert"), tiny_tokenizer())


@pytest.mark.parametrize("script", [train_cosent, train_cross_encoder], ids=["encoder", "cross-encoder"])
def test_mixed_precision_verifies(tmp_path, monkeypatch, capsys, script):
    """Accelerate wraps `forward` in autocast, and a copy of the model would answer in bf16 too."""
    open_doors_here(monkeypatch)
    run(monkeypatch, script, "scratch", "--output-dir", tmp_path / "run", *TINY, "--precision", "bf16")
    assert "verified" in capsys.readouterr().out


def test_a_resume_with_other_flags_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(frame, "publish", lambda *args: None)
    flags = ["quickstart", "--output-dir", tmp_path / "run", *TINY]
    run(monkeypatch, train_cosent, *flags)
    message = refused(monkeypatch, capsys, train_cosent, *flags, "--resume", "--seed", "7")
    assert "began with --seed 0, not 7: resume it as it began" in message


def test_an_overwrite_that_is_refused_late_loses_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(frame, "publish", lambda *args: None)
    flags = ["quickstart", "--output-dir", tmp_path / "run", *TINY]
    run(monkeypatch, train_cosent, *flags)
    late = [*flags, "--overwrite", *HIDDEN.split(), "--max-grad-norm", "1"]
    assert "set max_grad_norm=None" in refused(monkeypatch, capsys, train_cosent, *late)
    assert (tmp_path / ".run.replaced/model.safetensors").exists()
    run(monkeypatch, train_cosent, *flags, "--overwrite")
    assert (tmp_path / "run/model.safetensors").exists() and not (tmp_path / ".run.replaced").exists()


def test_an_adapter_alone_is_saved_and_opens(tmp_path, monkeypatch):
    monkeypatch.setattr(frame, "publish", lambda *args: None)  # of the base; the adapter is not published
    base = tmp_path / "base"
    run(monkeypatch, train_cosent, "quickstart", "--output-dir", base, *TINY)
    folder = tmp_path / "adapter"
    flags = ["--model", base, "--lora-r", "2", "--lora-save", "adapter", "--output-dir", folder]
    run(monkeypatch, train_cosent, "quickstart", *TINY, *flags)
    assert (folder / "adapter_model.safetensors").exists() and not (folder / "model.safetensors").exists()
    adapted, plain = CoSENTModel.from_pretrained(folder), CoSENTModel.from_pretrained(base)
    assert abs(adapted.encode(["今天天气很好"]) - plain.encode(["今天天气很好"])).max() > 1e-6
    monkeypatch.setattr(_stock_encoder, "ADAPTERS_SAY_WHAT_THEY_LOAD", False)
    asked_nothing = CoSENTModel.from_pretrained(folder)
    assert (asked_nothing.encode(["今天天气很好"]) == adapted.encode(["今天天气很好"])).all()


def test_a_killed_run_resumes_to_the_same_bits(tmp_path, monkeypatch):
    flags = ["quickstart", *TINY, "--evaluate-every", "3", "--epochs", "4"]
    whole, cut, said = (tmp_path / name for name in ("whole", "cut", "said"))
    killed = start_script("train_cosent", [*flags, "--output-dir", cut], said)
    monkeypatch.setattr(frame, "publish", lambda *args: None)
    run(monkeypatch, train_cosent, *flags, "--output-dir", whole)
    deadline = time.monotonic() + 120
    while not list(cut.glob("checkpoints/step-*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    killed.kill()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL, said.read_text()
    assert not (cut / "model.safetensors").exists()
    resumed = start_script("train_cosent", [*flags, "--output-dir", cut, "--resume"], said)
    resumed.join(120)
    assert resumed.exitcode == 0, said.read_text()
    one, other = load_file(whole / "model.safetensors"), load_file(cut / "model.safetensors")
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    steps = [
        [json.loads(line)["step"] for line in (f / "metrics.jsonl").read_text().splitlines()] for f in (whole, cut)
    ]
    assert steps[0] == steps[1]


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


GOOD = "text1\ttext2\tlabel\n" + "".join(f"text {i}\ttext {i % 3}\t{i % 2}\n" for i in range(8))


def test_bad_input_is_one_sentence_and_exit_code_2(tmp_path, monkeypatch, capsys):
    def message(*arguments, script=train_cosent):
        out = tmp_path / "out" / str(len(list((tmp_path / "out").glob("*"))) if (tmp_path / "out").exists() else 0)
        return refused(monkeypatch, capsys, script, "scratch", "--output-dir", out, *TINY, *arguments)

    def data(name, text):
        path = write(tmp_path / name, text)
        return "--data", path, "--dev", path, "--batch-size", "4"

    good = data("good.tsv", GOOD)
    assert "textt" in message(*good, "--columns", "text1=textt")
    assert "line 3" in message(*data("broken.jsonl", '{"text1": "a", "text2": "b", "score": 1}\n\n{"text1": '))
    assert "label" in message(*data("word.tsv", GOOD + "a\tb\tperhaps\n"))
    assert "empty" in message(*data("empty.tsv", ""))
    assert "all" in message(*data("same.tsv", GOOD.replace("\t1\n", "\t0\n")))
    assert "only 8 examples for batches of 64: lower the batch size" in message(*good, "--batch-size", "64")
    assert "takes field=column" in message(*good, "--columns", "text1")
    assert "--optimizer adamm is none of adamw, lazy_adamw" in message(*good, "--optimizer", "adamm")
    assert "tiger takes name=value with a name of accumulation_steps, beta" in message(
        *good, "--optimizer", "tiger", "--optimizer-options", "accumulation_stepz=2"
    )
    assert "Tiger accumulates gradients by itself: don't clip" in message(
        *good, "--optimizer", "tiger", "--optimizer-options", "accumulation_steps=2", "--micro-batches", "2"
    )
    assert "every training pair into one class" in message(*good, "--loss", "sbert", "--class-threshold", "7")
    assert "labels from 0 to 1" in message(
        *data("grades.tsv", GOOD.replace("\t1\n", "\t5\n")), "--loss", "bce", script=train_cross_encoder
    )
    assert "can't write" in refused(
        monkeypatch, capsys, train_cosent, "scratch", "--output-dir", "/proc/nowhere", *good
    )
    occupied = tmp_path / "occupied"
    occupied.mkdir()
    write(occupied / "run.json", "{}")
    assert "--overwrite" in refused(monkeypatch, capsys, train_cosent, "scratch", "--output-dir", occupied, *good)
    assert (occupied / "run.json").exists()
    assert "nowhere/model" in message(*good, "--model", "nowhere/model")
    assert "nowhere/data" in message("--data", "nowhere/data")
    assert "give the file of the dev data with --dev" in message(*good[:2])
    assert "one.tsv has 1 sentence pair(s)" in message(
        *good, "--dev", write(tmp_path / "one.tsv", GOOD[: GOOD.index("text 1")])
    )
    assert "--max-length must be 3 or more" in message(*good, "--max-length", "1")
    assert "needs an accelerator: on a CPU use bf16" in message(*good, "--precision", "fp16")
    assert "pip install mlflow" in message(*good, "--tracker", "mlflow")
    assert "bad name!" in message(*good, "--push-to", "bad name!")
    assert "`fused` and `foreach` cannot be `True` together" in message(
        *good, "--optimizer-options", "fused=True", "foreach=True"
    )
    ranked = write(occupied / "ranked.tsv", GOOD)
    assert "which --ranked names" in refused(
        *(monkeypatch, capsys, train_cosent, "scratch", "--output-dir", occupied, *good),
        *("--overwrite", "--ranked", ranked),
    )


def test_a_loss_of_nan_keeps_the_last_checkpoint(tmp_path, monkeypatch, capsys):
    import suzoo.losses

    calls = []

    def loss(scores, labels, *, scale):
        calls.append(1)
        return suzoo.losses.cosent_loss(scores, labels, scale=scale) * (float("nan") if len(calls) == 12 else 1.0)

    monkeypatch.setattr(losses, "cosent_loss", loss)
    message = refused(monkeypatch, capsys, train_cosent, "quickstart", "--output-dir", tmp_path / "run", *TINY)
    assert "loss is nan at step 11" in message and "step-00000008" in message
    assert (tmp_path / "run/checkpoints/step-00000008/manifest.json").exists()


def test_two_processes_and_shards_train_the_same_model(tmp_path):
    """The shipped Accelerate configs, over CPU processes: data parallel and FSDP2 end at the weights of each other.

    The second by `accelerate launch`, and its folder opens here; test_machines.py (slow) launches ddp_cpu.yaml.
    """
    flags = ["quickstart", *TINY, "--micro-batches", "2"]
    run_on_two_ranks("ddp_cpu", train_cosent, *flags, "--output-dir", tmp_path / "ddp")
    folder, program = tmp_path / "fsdp2", tmp_path / "program.py"
    program.write_text(
        "import train_cosent; from suzoo.hub import check; check.verify = lambda folder, **options: []\n"
        "train_cosent.run_script(train_cosent.main)"
    )
    command = ["accelerate", "launch", "--config_file", ROOT / "training/accelerate/fsdp2_cpu.yaml"]
    command += ["--main_process_port", "0", program, *flags, "--output-dir", folder]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'training'}"}
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, cwd=ROOT, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"verified: {folder}" in done.stdout and "FSDP, 2" in done.stderr
    doors = [verify.check_promised_door(name, folder) for name in verify.read_promise(folder)["doors"]]
    assert len(doors) == 6 and verify.passed(doors), verify.format_table(doors)
    together, sharded = (load_file(tmp_path / name / "model.safetensors") for name in ("ddp", "fsdp2"))
    assert together.keys() == sharded.keys()
    for name, value in together.items():
        torch.testing.assert_close(value, sharded[name], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("script", [train_cosent, train_cross_encoder])
def test_texts_are_trained_on_behind_the_default_prompt(script, tmp_path, monkeypatch, capsys):
    """As `encode` and `predict` read them; the prompt of the training is the default of the saved model."""
    model = make_encoder() if script is train_cosent else make_cross_encoder()
    model.prompts = {"query": "a man plays "}
    monkeypatch.setattr(frame, "publish", lambda *arguments: None)  # other tests verify
    losses, defaults = {}, {}
    for name, default, flags in [
        ("none", None, []),
        ("default", "query", []),
        ("chosen", None, ["--prompt", "query"]),
        ("off", "query", ["--prompt", ""]),
    ]:
        model.default_prompt_name = default
        model.save_pretrained(tmp_path / name, tokenizer=tiny_tokenizer())
        flags = ["--model", tmp_path / name, "--output-dir", tmp_path / "out" / name, "--max-length", "40", *flags]
        run(monkeypatch, script, "quickstart", *flags, *TINY_STEPS)
        said = capsys.readouterr().out
        assert ("behind the prompt 'query', which is 'a man plays '" in said) == (name in ("default", "chosen"))
        lines = (tmp_path / "out" / name / "metrics.jsonl").read_text().splitlines()
        losses[name] = next(row["loss"] for row in map(json.loads, lines) if "loss" in row)
        defaults[name] = type(model).from_pretrained(tmp_path / "out" / name).default_prompt_name
    assert losses["none"] == losses["off"] != losses["default"] == losses["chosen"]
    assert defaults == {"none": None, "default": "query", "chosen": "query", "off": None}
    message = refused(monkeypatch, capsys, script, "quickstart", *flags[:6], "--overwrite", "--prompt", "qurey")
    assert "--prompt qurey: no prompt is called 'qurey'" in message
