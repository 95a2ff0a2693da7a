"""train_contrastive.py as a user runs it, and its loss beside sentence-transformers' own."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from recipes import frame
from recipes.contrastive import Contrastive
from recipes.contrastive_data import examples_of, tokens_of
from recipes.losses import choose_loss

import pytest
import torch
import train_contrastive
from accelerate import Accelerator
from safetensors.torch import load_file
from torch.nn.parallel import DistributedDataParallel

from suzoo.data import Ranked, flat_batch, read_queries, token_ids, tokenize_rows
from suzoo.distributed import is_distributed, rank, world_size
from suzoo.engine import batch_coupled_backward
from suzoo.models import CoSENTModel
from tests.hub.folders import open_doors_here
from tests.ranks import run_ranks
from tests.tiny import tiny_config
from tests.training.scripts import refused, run

TINY = ["--hidden-size", "32", "--num-layers", "1", "--max-train-samples", "256", "--max-dev-samples", "64"]
TINY += ["--batch-size", "32", "--cpu-threads", "1"]


@pytest.fixture
def unpublished(monkeypatch):
    monkeypatch.setattr(frame, "publish", lambda *arguments: None)


def losses_of(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def test_queries_find_their_texts_and_the_folder_opens(tmp_path, monkeypatch, capsys):
    flags = ["--epochs", "5", "--micro-batches", "2"]
    open_doors_here(monkeypatch)
    run(monkeypatch, train_contrastive, "quickstart", "--output-dir", tmp_path / "run", *TINY, *flags)
    assert f"verified: {tmp_path / 'run'}" in capsys.readouterr().out
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())["dev"]
    assert metrics["mrr@10"] > 0.2  # chance is .05
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert "SimCSE" in record["citations"] and "margin" not in record["settings"]


@pytest.mark.parametrize(
    "flags",
    [
        "quickstart --loss flat_nce --epochs 4",
        "quickstart --negatives all --hard-negative-weight 1 --epochs 4",
        "simcse --model None --lr 1e-3 --epochs 6",
        "classes --epochs 4",
        "classes --loss supcon --scale 10 --micro-batches 2",
        "gru --epochs 4",
        "classes --encoder bigru --epochs 4",
    ],
)
def test_every_way_of_training_learns_something(tmp_path, monkeypatch, unpublished, flags):
    recipe, *flags = flags.split()
    run(monkeypatch, train_contrastive, recipe, "--output-dir", tmp_path / "run", *TINY, *flags)
    losses = losses_of(tmp_path / "run")
    assert losses[-1] < losses[0]


def test_micro_batches_are_the_same_step(tmp_path, monkeypatch, unpublished):
    for parts in (1, 4):
        flags = ["--micro-batches", parts, "--dropout", "0", "--max-steps", "4"]
        run(monkeypatch, train_contrastive, "quickstart", *TINY, *flags, "--output-dir", tmp_path / str(parts))
    one, four = (load_file(tmp_path / parts / "model.safetensors") for parts in ("1", "4"))
    for name, value in one.items():
        torch.testing.assert_close(four[name], value, atol=2e-4, rtol=1e-3)  # Adam lifts rounding of tiny gradients


ROWS = [("a b c", "a c", "d e"), ("f g", "g f", "h"), ("i", "j i", "k l m"), ("n o", "o", "p q r")]


def test_the_loss_is_that_of_sentence_transformers(tmp_path, monkeypatch, unpublished):
    """MultipleNegativesRankingLoss and its cached form, on one saved folder, with hard negatives."""
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.losses import CachedMultipleNegativesRankingLoss, MultipleNegativesRankingLoss

    run(monkeypatch, train_contrastive, "quickstart", *TINY, "--max-steps", "2", "--output-dir", tmp_path / "run")
    theirs = SentenceTransformer(str(tmp_path / "run"), device="cpu")
    theirs.eval()
    columns = [list(column) for column in zip(*ROWS, strict=True)]
    assert len(Dataset.from_dict(dict(zip(["anchor", "positive", "negative"], columns, strict=True)))) == 4
    features = [theirs.preprocess(column) for column in columns]
    expected = float(MultipleNegativesRankingLoss(theirs)([dict(f) for f in features], None))
    cached = float(CachedMultipleNegativesRankingLoss(theirs, mini_batch_size=2)([dict(f) for f in features], None))

    model = CoSENTModel.from_pretrained(tmp_path / "run").eval()
    recipe = Contrastive(data="x", num_negatives=1)
    rows = [Ranked(query, (text,), (no,)) for query, text, no in ROWS]
    examples, _ = examples_of(recipe, rows)
    encode = partial(token_ids, model.tokenizer, max_length=64)
    examples.tokens = tokenize_rows(rows, lambda part, first: tokens_of(encode, part), key=[])
    tokens, ids = [ids for number in range(4) for ids in examples[number][0]], examples.alike.tolist()
    batches = [(flat_batch(tokens[i : i + 6]), torch.tensor(ids[i // 3 : i // 3 + 2])) for i in (0, 6)]
    accelerator = Accelerator(cpu=True)

    def embeddings(batch):
        return model(**batch[0]).sentence_embedding.view(-1, 3, 32)

    loss = choose_loss(recipe, 32, per_example=3).of
    ours = batch_coupled_backward(accelerator, model, batches, embeddings, lambda all: loss(all, torch.tensor(ids)))
    assert float(ours) == pytest.approx(expected, abs=1e-5) and float(ours) == pytest.approx(cached, abs=1e-5)
    gradients = {name: p.grad.clone() for name, p in model.encoder.named_parameters() if p.grad is not None}
    MultipleNegativesRankingLoss(theirs)([dict(f) for f in features], None).backward()
    for name, value in theirs[0].auto_model.named_parameters():
        if value.grad is not None and name in gradients:
            torch.testing.assert_close(gradients[name], value.grad, atol=1e-5, rtol=1e-3)
    assert len(gradients) > 10


def gradients_of_a_step() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model = CoSENTModel(tiny_config(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)).double()
    module = DistributedDataParallel(model) if is_distributed() else model
    rows = torch.randint(5, 40, (24, 6)).tolist()
    numbers = torch.tensor([[i % 7, 100 + i] for i in range(8)])  # the last row asks what the first asks
    mine = slice(rank() * 8 // world_size(), (rank() + 1) * 8 // world_size())
    half = (mine.stop - mine.start) // 2
    parts = [slice(mine.start, mine.start + half), slice(mine.start + half, mine.stop)]
    loss = choose_loss(Contrastive(data="x"), 32, per_example=3).of

    def embeddings(part):
        batch = flat_batch(rows[3 * part.start : 3 * part.stop])
        return module(**batch).sentence_embedding.view(-1, 3, 32)

    batch_coupled_backward(Accelerator(cpu=True), module, parts, embeddings, lambda all: loss(all, numbers[mine]))
    return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


def test_two_ranks_with_cached_gradients_take_the_step_of_one_process():
    expected = gradients_of_a_step()
    for found in run_ranks(gradients_of_a_step):
        for name, grad in expected.items():
            torch.testing.assert_close(found[name], grad, atol=1e-9, rtol=1e-6, msg=name)


def test_who_says_the_same_is_no_negative():
    loss = choose_loss(Contrastive(data="x"), 8).of
    counted = choose_loss(Contrastive(data="x", keep_false_negatives=True), 8).of
    torch.manual_seed(0)
    embeddings, same = torch.randn(3, 2, 8), torch.tensor([[1, 4], [1, 5], [2, 6]])
    assert loss(embeddings, same) < counted(embeddings, same)
    alone = loss(embeddings[[0, 2]], same[[0, 2]]), loss(embeddings[[1, 2]], same[[1, 2]])
    third = counted(embeddings, same) * 3 - counted(embeddings[:2], same[:2]) * 2
    assert torch.isfinite(third) and all(torch.isfinite(value) for value in alone)


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_rows_of_queries(tmp_path):
    rows = [{"anchor": "q", "positive": "p", "negative_1": "n", "negative_2": "m"}, {"anchor": "q", "positive": "n"}]
    (found,) = read_queries(write(tmp_path / "a.jsonl", rows))
    assert found == Ranked("q", ("p", "n"), ("m",))  # n is a positive elsewhere
    rows = [{"query": "q", "positive": ["p", "o"], "negative": ["n"]}]
    assert read_queries(write(tmp_path / "b.jsonl", rows)) == [Ranked("q", ("p", "o"), ("n",))]
    rows = [{"question": "q", "answer": "a"}]
    path = write(tmp_path / "c.jsonl", rows)
    assert read_queries(path, columns=("query=question", "positive=answer")) == [Ranked("q", ("a",), ())]
    assert read_queries(write(tmp_path / "d.jsonl", [{"text1": "q", "text2": "a"}])) == [Ranked("q", ("a",), ())]
    with pytest.raises(ValueError, match="has no column for"):
        read_queries(path)


def test_what_a_user_can_get_wrong(tmp_path, monkeypatch, capsys):
    def message(*arguments):
        options = ["quickstart", "--output-dir", tmp_path / "run", *TINY, "--overwrite"]
        return refused(monkeypatch, capsys, train_contrastive, *options, *arguments)

    rows = [{"query": f"q {i}", "positive": f"p {i}", "negative": [f"n {i}"] * (i > 0)} for i in range(40)]
    data = write(tmp_path / "rows.jsonl", rows)
    own = ["--data", data, "--dev", data, "--columns"]
    assert "--num-negatives 1, but the query 'q 0' has 0: lower it" in message(*own, "--num-negatives", "1")
    assert "one class each" in message(*own, "text=query", "label=negative", "--loss", "supcon")
    assert "give a --dropout above 0" in message("--examples", "texts", "--dropout", "0")
    assert "--encoder gru has no linear layers" in message("--encoder", "gru", "--lora-r", "4")
    assert "--scale must be above 0" in message("--scale", "0")
