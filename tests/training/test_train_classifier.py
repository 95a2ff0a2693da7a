"""train_classifier.py as a user runs it, and the regularizers as the scripts put them together."""

from __future__ import annotations

import json
import shutil

from recipes import choices, frame
from recipes.classifier import Classification
from recipes.step import regularized

import pytest
import torch
import train_classifier
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.nn.parallel import DistributedDataParallel
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertForSequenceClassification

from suzoo.distributed import is_distributed, rank, world_size
from suzoo.engine import checkpoint
from tests.ranks import run_ranks
from tests.tiny import tiny_config
from tests.training.scripts import refused, run

TINY = ["--hidden-size", "32", "--num-layers", "1", "--max-train-samples", "512"]
TINY += ["--epochs", "2", "--lr", "2e-3", "--cpu-threads", "1"]


@pytest.fixture
def unpublished(monkeypatch):
    """Runs end with the saved folder: card and doors are opened once, in the first test."""
    monkeypatch.setattr(frame, "publish", lambda *arguments: None)


def losses_of(folder) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def test_from_nothing_to_a_verified_folder(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "run"
    run(
        monkeypatch,
        train_classifier,
        "quickstart",
        *TINY,
        "--output-dir",
        folder,
        "--post-hoc-tau",
        "-1",
        "--rdrop",
        "1",
    )
    printed = capsys.readouterr().out
    assert printed.strip().endswith(f"verified: {folder}") and "tail_f1" in printed
    name = "AutoModelForSequenceClassification"
    ways = {line.split("  ")[0] for line in printed.splitlines() if "  ok  " in line}
    assert ways >= {name, "text-classification pipeline", f"{name} (suzoo)", f"saved by {name}"}
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["dev"] != metrics["dev, post hoc"]
    card = (folder / "README.md").read_text()
    assert f"{metrics['dev']['macro_f1']:.4f}" in card and "kexue7615" in card and "kexue8496" in card
    assert "classify = pipeline" in card and "rare ones are found" in card and "synthetic" in card
    assert "| rdrop | 1.0 |" in card and "| tau | 1.0 |" in card and "fgm" not in card and "gamma" not in card
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert type(model) is BertForSequenceClassification and model.config.id2label[0] == "外卖"
    assert AutoTokenizer.from_pretrained(folder).model_max_length == 64


@pytest.mark.parametrize(
    "flags",
    [
        "--loss ce --fgm 0.05",
        "--loss focal --gradient-penalty 0.01 --lora-r 4",
        "--loss f1 --pgd 0.05 --pgd-step-size 0.03",
        "--loss dice --embedding-noise 0.01",
        "--loss ce --vat 0.05 --weissi 1e-5 --flood 0.1",
        "--loss ce --rdrop 4 --dropout 0.2 --gradient-checkpointing",
    ],
)
def test_every_way_of_training_learns_something(tmp_path, monkeypatch, unpublished, flags):
    run(monkeypatch, train_classifier, "quickstart", *TINY, "--output-dir", tmp_path, *flags.split())
    losses = losses_of(tmp_path)
    assert losses[-1] < losses[0]


OPTIMIZERS = {
    "adamw": "--lr 2e-3 --optimizer-options betas=(0.9,0.99) amsgrad=True",
    "lazy_adamw": "--lr 2e-3 --optimizer-options eps_inside=True",
    "adafactor": "--lr 2e-2 --optimizer-options clip_threshold=None",
    "adax": "--lr 2e-3 --optimizer-options rounding=kahan",
    "adaxw": "--lr 2e-3",
    "lion": "--lr 5e-4 --optimizer-options momentum_dtype=bfloat16",
    "tiger": "--lr 5e-3 --optimizer-options rms_floor=1e-3",
    "accumulated_sgd": "--lr 5e-2 --micro-batches 2 --max-grad-norm None --optimizer-options accumulation_steps=2",
    "accumulated_adamw": "--lr 2e-3 --micro-batches 2 --max-grad-norm None --optimizer-options accumulation_steps=2",
}


@pytest.mark.parametrize("name", choices.OPTIMIZERS)
def test_every_optimizer_goes_by_its_name(tmp_path, monkeypatch, unpublished, name):
    flags = ["--loss", "ce", "--optimizer", name, *OPTIMIZERS[name].split()]
    run(monkeypatch, train_classifier, "quickstart", *TINY, "--output-dir", tmp_path, *flags)
    losses = losses_of(tmp_path)
    assert losses[-1] < losses[0]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 32  # updates, of two micro-batches each or not


def several_classes(path):
    present = [[c for c, k in (("x", 2), ("y", 3), ("z", 5)) if i % k] for i in range(512)]
    characters = {"x": "甲", "y": "乙", "z": "丁"}
    rows = [{"text": "丙" + "".join(characters[name] for name in names), "labels": names} for names in present]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


@pytest.mark.parametrize("flags", ["--loss multilabel --rdrop 1", "--loss bce --vat 0.1", "--loss f1", "--loss focal"])
def test_texts_of_several_classes(tmp_path, monkeypatch, unpublished, flags):
    data = several_classes(tmp_path / "data.jsonl")
    run(
        monkeypatch,
        train_classifier,
        "quickstart",
        *TINY,
        "--epochs",
        "8",
        "--data",
        data,
        "--dev",
        data,
        "--output-dir",
        tmp_path / "run",
        *flags.split(),
    )
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert config["problem_type"] == "multi_label_classification" and list(config["label2id"]) == ["x", "y", "z"]
    # answering the most frequent set of classes for every text would give .74
    assert json.loads((tmp_path / "run/metrics.json").read_text())["dev"]["micro_f1"] > 0.8


def test_micro_batches_are_the_same_step(tmp_path, monkeypatch, unpublished):
    for parts in (1, 4):
        flags = ["--micro-batches", parts, "--gradient-penalty", "0.1", "--dropout", "0", "--loss", "class_balanced"]
        run(
            monkeypatch,
            train_classifier,
            "quickstart",
            *TINY,
            "--epochs",
            "0.5",
            "--output-dir",
            tmp_path / str(parts),
            *flags,
        )
    one, four = (load_file(tmp_path / parts / "model.safetensors") for parts in ("1", "4"))
    for name, value in one.items():
        torch.testing.assert_close(four[name], value, atol=2e-4, rtol=1e-3)  # Adam lifts rounding of tiny gradients


class Killed(BaseException):
    pass


def test_a_killed_run_resumes_to_the_same_bits(tmp_path, monkeypatch, unpublished):
    """With the loss f1, whose running mean is state of its own, and VAT, which draws random numbers of its own."""
    flags = [*TINY, "--loss", "f1", "--vat", "0.1", "--evaluate-every", "5"]
    run(monkeypatch, train_classifier, "quickstart", *flags, "--output-dir", tmp_path / "whole")
    regularized, calls = train_classifier.regularized, []

    def killed(*arguments, **options):
        calls.append(1)
        if len(calls) == 13:
            raise Killed
        return regularized(*arguments, **options)

    monkeypatch.setattr(train_classifier, "regularized", killed)
    with pytest.raises(Killed):
        run(monkeypatch, train_classifier, "quickstart", *flags, "--output-dir", tmp_path / "cut")
    monkeypatch.setattr(train_classifier, "regularized", regularized)
    run(monkeypatch, train_classifier, "quickstart", *flags, "--output-dir", tmp_path / "cut", "--resume")
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert losses_of(tmp_path / "whole") == losses_of(tmp_path / "cut")


def test_bad_input_is_one_sentence_and_exit_code_2(tmp_path, monkeypatch, capsys):
    def message(*arguments):
        options = ["quickstart", *TINY, "--output-dir", tmp_path / "out", "--overwrite"]
        return refused(monkeypatch, capsys, train_classifier, *options, *arguments)

    data = several_classes(tmp_path / "data.jsonl")
    several = ["--data", data, "--dev", data]
    assert "--loss ce is none of f1, dice, bce" in message(*several, "--loss", "ce")
    assert "texts have several" in message(*several, "--post-hoc-tau", "1")
    assert "has classes that the training data lacks: " in message("--max-train-samples", "40")
    assert "dice is a ratio over the whole step" in message("--loss", "dice", "--micro-batches", "2")
    assert "this model has none: give a --dropout" in message("--rdrop", "4", "--dropout", "0")
    assert "--lora-save adapter needs a --model" in message("--lora-r", "4", "--lora-save", "adapter")
    assert "none of adamw, lazy_adamw, adafactor" in message("--optimizer", "adamm")
    lion = ["--optimizer", "lion", "--lr", "1e-3", "--optimizer-options"]
    assert "betaz=1: lion takes name=value with a name of betas, compile," in message(*lion, "betaz=1")
    assert "--optimizer lion --lr 0.001 betas=(2,3): Lion: betas must be two numbers" in message(*lion, "betas=(2,3)")
    assert "--optimizer lion --lr 0.001 betas=3: " in message(*lion, "betas=3")
    assert "--optimizer lion --lr 0.001 rounding=up: Lion: rounding must be one of nearest" in message(
        *lion, "rounding=up"
    )
    accumulated = ["--optimizer", "accumulated_sgd", "--optimizer-options", "accumulation_steps=2"]
    assert "AccumulatedSGD accumulates gradients by itself: don't clip them" in message(*accumulated)
    assert "accumulates 2 micro-batches and a step has 1" in message(*accumulated, "--max-grad-norm", "None")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Read only: copy it to break it."""
    folder = tmp_path_factory.mktemp("classifier") / "trained"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frame, "publish", lambda *arguments: None)
        run(patch, train_classifier, "quickstart", *TINY, "--epochs", "0.2", "--output-dir", folder)
    return folder


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def drop_a_layer(folder):
    weights = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in weights.items() if "layer.0" not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def drop_padding(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: truncate(folder / "model.safetensors"), "model.safetensors is no whole weights file"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no file named model.safetensors"),
        (lambda folder: truncate(folder / "config.json"), "config.json' is not a valid JSON file"),
        (lambda folder: truncate(folder / "tokenizer.json"), "holds no usable tokenizer"),
        (lambda folder: shutil.rmtree(folder), "there is no folder"),
        (drop_a_layer, "lacks weights: bert.encoder.layer.0"),
        (drop_padding, "has no [PAD], which this model needs"),
    ],
)
def test_a_damaged_model_is_named(tmp_path, monkeypatch, capsys, trained, damage, message):
    shutil.copytree(trained, tmp_path / "model")
    damage(tmp_path / "model")
    options = ["quickstart", *TINY, "--model", tmp_path / "model", "--output-dir", tmp_path / "run"]
    found = refused(monkeypatch, capsys, train_classifier, *options)
    assert message in found and (str(tmp_path / "model") in found)


def test_overwrite_does_not_delete_what_the_run_starts_from(tmp_path, monkeypatch, capsys, trained):
    shutil.copytree(trained, tmp_path / "model")
    options = ["quickstart", *TINY, "--model", tmp_path / "model", "--output-dir", tmp_path / "model", "--overwrite"]
    assert "--overwrite would delete" in refused(monkeypatch, capsys, train_classifier, *options)
    assert (tmp_path / "model/model.safetensors").exists()


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--lr", "nan", "--lr must be above 0, not nan"),
        ("--lr", "inf", "--lr must be finite, not inf"),
        ("--epochs", "-1", "--epochs must be above 0, not -1.0"),
        ("--batch-size", "0", "--batch-size must be 1 or more, not 0"),
        ("--warmup", "2", "--warmup must be from 0 to 1, not 2.0"),
        ("--weight-decay", "nan", "--weight-decay must be 0 or more, not nan"),
        ("--lora-r", "-1", "--lora-r must be 0 or more, not -1"),
        ("--max-grad-norm", "0", "--max-grad-norm must be above 0, not 0.0"),
    ],
)
def test_numbers_out_of_range_are_named_before_anything_is_touched(tmp_path, monkeypatch, capsys, flag, value, message):
    kept = tmp_path / "run/run.json"
    kept.parent.mkdir()
    kept.write_text("{}")
    options = ["quickstart", *TINY, "--output-dir", kept.parent, "--overwrite", flag, value]
    assert refused(monkeypatch, capsys, train_classifier, *options).endswith(message)
    assert kept.exists()


def test_after_a_full_disk_the_run_goes_on(tmp_path, monkeypatch, capsys, unpublished):
    flags = ["quickstart", *TINY, "--evaluate-every", "8"]
    run(monkeypatch, train_classifier, *flags, "--output-dir", tmp_path / "whole")
    save_file, calls = checkpoint.save_file, []

    def full(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        save_file(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", full)
        message = refused(patch, capsys, train_classifier, *flags, "--output-dir", tmp_path / "cut")
    assert message.endswith("make room, then go on with --resume in place of --overwrite")
    run(monkeypatch, train_classifier, *flags, "--output-dir", tmp_path / "cut", "--resume")
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def accelerator_of(**options) -> Accelerator:
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=True)
    for name, value in options.items():
        setattr(accelerator.state, name, value)
    return accelerator


def recipe_of(**options) -> Classification:
    return Classification(data=("embedded:classes_zh",), **options)


@pytest.mark.parametrize(
    ("flags", "state", "coupled", "message"),
    [
        ({"fgm": 1.0, "pgd": 1.0}, {}, False, "--fgm and --pgd are forms of one method"),
        ({"vat": 1.0, "precision": "fp16"}, {}, False, "--vat needs gradients that the loss scale of fp16"),
        ({"vat": 1.0, "compile": True}, {}, False, "--vat hooks into the embeddings"),
        ({"embedding_noise": 1.0, "compile": True}, {}, False, "--embedding-noise hooks into the embeddings"),
        ({"pgd": 1.0, "micro_batches": 2}, {}, True, "--pgd and a loss over the whole step"),
        ({"fgm": 1.0, "micro_batches": 2, "disturbance_norm": "batch"}, {}, False, "norm of the batch needs"),
        (
            {"gradient_penalty": 1.0},
            {"distributed_type": DistributedType.FSDP},
            False,
            "--gradient-penalty needs second derivatives, which FSDP2 does not have",
        ),
        ({"gradient_penalty": 1.0, "gradient_checkpointing": True}, {}, False, "leave --gradient-checkpointing out"),
        ({"gradient_penalty": 1.0}, {"num_processes": 2}, True, "which do not pass between processes"),
        ({"flood": 1.0, "micro_batches": 2}, {}, False, "--flood needs the loss of the whole step"),
        ({"flood": 1.0, "micro_batches": 2}, {}, True, "--flood and a loss over the whole step"),
        ({"weissi": 1.0}, {"distributed_type": DistributedType.FSDP}, False, "--weissi needs whole matrices"),
    ],
)
def test_what_would_run_and_be_wrong_is_refused(flags, state, coupled, message):
    with pytest.raises(ValueError, match=message):
        recipe_of(**flags).check_regularizers(accelerator_of(**state), coupled=coupled)


def test_what_is_right_is_not_refused():
    recipe_of(fgm=1.0, vat=1.0, rdrop=4.0, micro_batches=2).check_regularizers(accelerator_of(), coupled=False)
    recipe_of(rdrop=4.0, micro_batches=2).check_regularizers(accelerator_of(), coupled=True)
    recipe_of(fgm=1.0, flood=1.0).check_regularizers(accelerator_of(), coupled=True, flat=True)


def test_texts_end_to_end_have_no_rows():
    with pytest.raises(ValueError, match="--disturbance-norm sample knows no rows"):
        recipe_of(vat=1.0, disturbance_norm="sample").check_regularizers(accelerator_of(), coupled=True, flat=True)


RECIPES = {
    "fgm": {"fgm": 0.5},
    "matrix": {"fgm": 0.5, "disturbance_norm": "matrix"},
    "pgd": {"pgd": 0.5, "disturbance_norm": "batch"},
    "penalty": {"gradient_penalty": 2.0},
    "flood": {"flood": 5.0, "weissi": 1e-2},
}


def gradients_of_a_step() -> dict[str, dict[str, torch.Tensor]]:
    """Gradients of each way of training on this rank's share of the rows, in float64."""
    results = {}
    for name, flags in RECIPES.items():
        torch.manual_seed(0)
        config = tiny_config(num_labels=3, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        model = BertForSequenceClassification(config).double()
        ids, labels = torch.randint(5, 40, (8, 6)), torch.arange(8) % 3
        mine = slice(rank() * 8 // world_size(), (rank() + 1) * 8 // world_size())
        module = DistributedDataParallel(model) if is_distributed() else model

        def compute_loss(module=module, ids=ids[mine], labels=labels[mine]):
            return torch.nn.functional.cross_entropy(module(input_ids=ids).logits, labels)

        loss, numbers = regularized(
            recipe_of(**flags), compute_loss, model, compute_logits=lambda: None, num_rows=len(labels[mine])
        )
        loss.backward()
        assert numbers["loss"].isfinite()
        results[name] = {key: value.grad for key, value in model.named_parameters()}
    return results


def test_two_ranks_take_the_step_of_one_process():
    expected = gradients_of_a_step()
    for results in run_ranks(gradients_of_a_step):
        for name, grads in expected.items():
            for key, grad in grads.items():
                torch.testing.assert_close(results[name][key], grad, atol=1e-9, rtol=1e-6, msg=f"{name} {key}")


def test_flooding_climbs_and_logs_the_loss_before_it():
    weight = torch.nn.Parameter(torch.tensor(1.0))
    model = BertForSequenceClassification(tiny_config())
    flooded, numbers = regularized(recipe_of(flood=3.0), lambda: 2 * weight, model, compute_logits=lambda: None)
    flooded.backward()
    assert weight.grad == -2.0 and numbers["loss"] == 2.0 and flooded.item() == 4.0
