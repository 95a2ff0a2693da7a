"""train_two_tasks.py --tasks simbert: one pass is both tasks, on any number of processes, and two folders open."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from recipes.tasks_simbert import SimBERT, UniLMWithVectors, similar
from recipes.two_tasks import simbert

import numpy as np
import pytest
import torch
import train_two_tasks
from accelerate import Accelerator
from torch.nn.parallel import DistributedDataParallel
from transformers import BertModel

from suzoo.data import encode_source_target, read_pairs, readers, tokenize_rows
from suzoo.distributed import is_distributed, rank, world_size
from suzoo.hub import publish
from suzoo.hub.push import push
from suzoo.losses import contrastive_loss
from suzoo.models import CoSENTModel, UniLMForCausalLM
from tests.hub.conftest import as_user, hub  # noqa: F401
from tests.ranks import run_ranks
from tests.training.scripts import refused, run

TINY = ["--hidden-size", "32", "--num-layers", "1", "--max-train-samples", "512", "--max-dev-samples", "96"]
TINY += ["--batch-size", "16", "--cpu-threads", "1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(
            publish, "check_folder", lambda *arguments, **options: None
        )  # the slow test opens the doors
        path = tmp_path_factory.mktemp("simbert") / "run"
        flags = ["--max-steps", "6", "--evaluate-every", "3", "--micro-batches", "2", "--max-scored", "3"]
        run(monkeypatch, train_two_tasks, "simbert", *TINY, *flags, "--output-dir", path)
    return path


def test_both_folders_open_and_say_the_same(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    dev = [line["dev"] for line in lines if "dev" in line]
    assert dev[1]["rewriting_loss"] < dev[0]["rewriting_loss"]
    assert dev[0]["loss"] == pytest.approx(dev[0]["rewriting_loss"] + dev[0]["contrast_loss"])
    metrics = json.loads((folder / "metrics.json").read_text())
    assert "mrr@10" in metrics["dev"] and "rouge_l" in metrics["generated"]
    record = json.loads((folder / "run.json").read_text())
    assert "SimCSE" in record["citations"] and not {"also", "mix", "pooling"} & record["settings"].keys()
    encoder, writer = CoSENTModel.from_pretrained(folder / "encoder"), UniLMForCausalLM.from_pretrained(folder)
    text = "今天天气很好"
    ids = torch.tensor([encoder.tokenizer(text)["input_ids"]])
    cls = writer.bert(ids, token_type_ids=torch.zeros_like(ids)).last_hidden_state[0, 0]
    np.testing.assert_allclose(encoder.encode(text), cls.detach().numpy(), atol=1e-5)
    assert BertModel.from_pretrained(folder / "encoder").config.model_type == "bert"
    card = (folder / "encoder/README.md").read_text()
    assert "in-batch contrast" in card and "CoSENT loss" not in card
    assert len(writer.generate_texts([text])) == 1  # the tokenizer is there


def test_the_encoder_is_pushed_by_itself(folder, hub, as_user, monkeypatch):  # noqa: F811
    monkeypatch.setattr("suzoo.hub.push.check_folder", lambda *arguments, **options: None)
    as_user(hub, "hf_alice")
    push(folder / "encoder", "alice/encoder")
    assert "alice/encoder" in hub.files("alice/encoder")["README.md"].decode()
    texts = ["今天天气很好", "我"]
    pulled = CoSENTModel.from_pretrained("alice/encoder").encode(texts)
    np.testing.assert_allclose(pulled, CoSENTModel.from_pretrained(folder / "encoder").encode(texts), atol=1e-6)


def losses_and_gradients() -> list:
    """Of a step of eight pairs, this rank's share in one and in two micro-batches."""
    torch.manual_seed(0)
    recipe = simbert()
    flags = {"hidden_size": 32, "num_layers": 1, "dropout": 0.0, "max_train_samples": 64, "max_dev_samples": 32}
    found = []
    for parts in (1, 2):
        torch.manual_seed(1)
        options: dict[str, Any] = {**flags, "batch_size": 8, "micro_batches": parts}
        tasks = SimBERT(replace(recipe, **options), Accelerator(cpu=True))
        module = DistributedDataParallel(tasks.module) if is_distributed() else tasks.module
        losses = tasks.backward(module, tasks.batches[0])
        gradients = {name: p.grad for name, p in tasks.model.named_parameters() if p.grad is not None}
        found.append(({name: float(loss) for name, loss in losses.items()}, gradients, tasks.evaluate(module)))
    return found


def test_micro_batches_and_ranks_take_the_same_step():
    expected, cached = losses_and_gradients()
    ranks = run_ranks(losses_and_gradients)
    for name in expected[0]:  # the mean over ranks is what is logged
        assert np.mean([results[0][0][name] for results in ranks]) == pytest.approx(expected[0][name], rel=1e-4)
    for found in (cached, *ranks[0], *ranks[1]):
        for name, gradient in expected[1].items():
            torch.testing.assert_close(found[1][name], gradient, atol=1e-5, rtol=1e-3, msg=name)
        assert found[2] == pytest.approx(expected[2], rel=1e-3)


def test_one_pass_is_the_slow_obvious_form(folder):
    """SimBERT's loss from its definition: each text alone for its vector, each pair alone for its target."""
    model = UniLMForCausalLM.from_pretrained(folder).eval()
    tokenizer = CoSENTModel.from_pretrained(folder / "encoder").tokenizer
    pairs = [pair for pair in read_pairs("embedded:pairs_zh", split="dev", max_rows=40) if pair.label == 5][:4]
    nll, count, vectors = 0.0, 0, []
    for pair in pairs:
        for source, target in ((pair.text1, pair.text2), (pair.text2, pair.text1)):
            ids = torch.tensor([tokenizer(source)["input_ids"]])
            vectors.append(model.bert(ids, token_type_ids=torch.zeros_like(ids)).last_hidden_state[0, 0])
            row = encode_source_target(tokenizer, source, target, max_source_tokens=32, max_target_tokens=32)
            row = {name: torch.tensor([values]) for name, values in row.items()}
            number = int((row["labels"] != -100).sum())
            nll, count = nll + model(**row).loss * number, count + number
    vectors = torch.nn.functional.normalize(torch.stack(vectors))
    cosines = 30 * vectors @ vectors.T - 1e12 * torch.eye(8)
    partner = torch.tensor([1, 0, 3, 2, 5, 4, 7, 6])
    contrast = torch.nn.functional.cross_entropy(cosines, partner)

    recipe = simbert()
    tasks = SimBERT.__new__(SimBERT)
    tasks.recipe, tasks.accelerator, tasks.tokenizer = recipe, Accelerator(cpu=True), tokenizer
    examples = similar(recipe, pairs, pairs)[0]
    examples.tokens = tokenize_rows(pairs, tasks.encode, key=[])
    batch = tasks.collate([examples[number] for number in range(4)])
    losses = tasks.losses(UniLMWithVectors(model).eval(), [batch])
    torch.testing.assert_close(losses["rewriting_loss"], nll / count, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(losses["contrast_loss"], contrast, atol=1e-4, rtol=1e-4)
    a, b = vectors[0::2], vectors[1::2]
    torch.testing.assert_close(contrastive_loss(a, b, scale=30, negatives="all"), contrast)
    assert rank() == 0 and world_size() == 1


def test_large_data_are_mapped(tmp_path, monkeypatch):
    """Rows and tokens of the cache make the batches that those in memory make."""
    path = tmp_path / "x.tsv"
    rows = [f"{pair.text1}\t{pair.text2}\t{pair.label}" for pair in read_pairs("embedded:pairs_zh", max_rows=200)]
    path.write_text("\n".join(["text1\ttext2\tlabel", *rows]))
    monkeypatch.setenv("SUZOO_CACHE", str(tmp_path / "cache"))
    sizes: dict[str, Any] = {"hidden_size": 32, "num_layers": 1, "batch_size": 8, "dev": str(path)}
    recipe = replace(simbert(), data=(str(path), str(path)), data_weights=(1.0, 3.0), **sizes)
    expected = SimBERT(recipe, Accelerator(cpu=True)).batches
    monkeypatch.setattr(readers, "IN_MEMORY_BYTES", 0)
    found = SimBERT(recipe, Accelerator(cpu=True)).batches
    assert (
        len(list(tmp_path.rglob("cache/tokens/*.arrow"))) == 2 and len(list(tmp_path.rglob("cache/rows/*.arrow"))) == 2
    )
    assert len(found.examples) == len(expected.examples) == 2 * sum(row.endswith("5.0") for row in rows)
    for step in range(5):
        (batch, ids), (of_memory, its_ids) = found[step][0], expected[step][0]
        assert (ids == its_ids).all() and all((batch[name] == of_memory[name]).all() for name in of_memory)


def test_what_does_not_belong_together_is_one_sentence(tmp_path, monkeypatch, capsys):
    def message(*arguments):
        options = ["simbert", *TINY, "--output-dir", tmp_path / "out", "--overwrite"]
        return refused(monkeypatch, capsys, train_two_tasks, *options, *arguments)

    assert "--fgm is for --tasks similarity_classes, not for simbert" in message("--fgm", "1")
    assert "has 0 pairs of a label from 9.0: lower --alike-from" in message("--alike-from", "9")
