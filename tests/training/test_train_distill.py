"""train_distill.py as a user runs it, and the students it cuts out of a teacher."""

from __future__ import annotations

import json
from pathlib import Path

from recipes import frame
from recipes.distill import Distillation
from recipes.losses import distillation_loss
from recipes.students import cut_vocabulary, keep_layers, make_student, narrow, spread_layers, teacher_vectors

import numpy as np
import pytest
import torch
import train_distill
from transformers import AutoModel

from suzoo.data import embedded, fingerprint
from suzoo.models import CoSENTModel
from tests.hub.folders import open_doors_here
from tests.ranks import run_ranks
from tests.tiny import SENTENCES, tiny_config, tiny_tokenizer
from tests.training.scripts import cut_and_resumed, refused, run, run_on_two_ranks

FLAGS = ["--max-train-samples", "300", "--max-dev-samples", "64", "--batch-size", "32", "--cpu-threads", "1"]


def make_teacher(family: str = "bert", **options) -> CoSENTModel:
    torch.manual_seed(0)
    teacher = CoSENTModel(tiny_config(family, initializer_range=0.2), pooling="mean", **options).eval()
    teacher.tokenizer, teacher.max_seq_length = tiny_tokenizer(), 32
    return teacher


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("teacher")
    make_teacher(normalize=True).save_pretrained(path)
    return path


@pytest.fixture
def unpublished(monkeypatch):
    monkeypatch.setattr(frame, "publish", lambda *arguments: None)


def cosines(model: CoSENTModel) -> np.ndarray:
    vectors = model.encode(SENTENCES, normalize=True)
    return (vectors @ vectors.T)[np.triu_indices(len(vectors), 1)]


def test_a_narrow_student_learns_and_its_folder_opens(tmp_path, monkeypatch, capsys, folder):
    open_doors_here(monkeypatch)
    flags = ["--teacher", folder, "--hidden-size", "16", "--num-layers", "2", "--epochs", "6", "--lr", "3e-3"]
    run(monkeypatch, train_distill, "quickstart", "--output-dir", tmp_path / "run", *FLAGS, *flags)
    assert f"verified: {tmp_path / 'run'}" in capsys.readouterr().out
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert metrics["dev"]["with_teacher"] > 0.5 and -1 <= metrics["dev"]["teachers_own"] <= 1
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert "2101.04731" in record["citations"] and "2004.09813" in record["citations"]
    assert record["settings"]["hidden_size"] == 16
    card = (tmp_path / "run/README.md").read_text(encoding="utf-8")
    assert "a vector of 32 numbers" in card and "Trained by distillation" in card and "random weights" not in card
    assert "license: apache-2.0" not in card  # the teacher's is not known
    student, teacher = CoSENTModel.from_pretrained(tmp_path / "run"), CoSENTModel.from_pretrained(folder)
    assert student.config.hidden_size == 16 and student.embedding_size == teacher.embedding_size == 32
    texts = [row["text1"] for row in embedded.load("pairs_zh", "dev")][:40]
    a, b = (model.encode(texts, normalize=True) for model in (student, teacher))
    assert (a * b).sum(1).mean() > 0.8  # the student's vectors are in the teacher's space


@pytest.mark.parametrize(
    "how", ["--encoder gru", "--layers 0 2 --vocab-size 60", "--cosine-weight 0 --micro-batches 2"]
)
def test_every_kind_of_student_comes_nearer(tmp_path, monkeypatch, unpublished, folder, how):
    flags = [*how.split(), "--teacher", folder, "--epochs", "3", "--hidden-size", "0"]
    run(monkeypatch, train_distill, "quickstart", "--output-dir", tmp_path / "run", *FLAGS, *flags)
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < losses[0]
    if "vocab" in how:
        config = AutoModel.from_pretrained(tmp_path / "run").config
        assert config.vocab_size <= 60 and config.num_hidden_layers == 2


def test_a_run_that_was_cut_resumes_to_the_same_bits_with_vectors_from_the_cache(
    tmp_path, monkeypatch, unpublished, folder
):
    flags = ["--teacher", folder, "--max-steps", "6", "--save-every", "2", *FLAGS, "--hidden-size", "16"]
    cut_and_resumed(monkeypatch, train_distill, tmp_path, *flags)


def test_two_ranks_train_and_save(tmp_path, folder):
    flags = ["quickstart", "--teacher", folder, "--max-steps", "2", *FLAGS, "--output-dir", tmp_path / "run"]
    run_on_two_ranks("ddp_cpu", train_distill, *flags, "--hidden-size", "16")
    assert (tmp_path / "run/2_Dense/model.safetensors").exists()
    run_on_two_ranks(
        "ddp_cpu", train_distill, *flags, "--num-layers", "1", "--hidden-size", "32", "--overwrite"
    )  # its own
    assert not (tmp_path / "run/2_Dense").exists()


def loss_of_a_rank() -> torch.Tensor:
    from suzoo.distributed import rank, world_size

    torch.manual_seed(0)
    student, teacher = torch.randn(8, 6, dtype=torch.float64), torch.randn(8, 6, dtype=torch.float64)
    count = 8 // world_size()
    mine = slice(rank() * count, (rank() + 1) * count)
    rows = student[mine].requires_grad_()
    loss = distillation_loss(Distillation(), 6, 6)
    assert loss.over_step
    loss.of(rows, teacher[mine]).backward()
    return rows.grad / world_size()  # DDP's mean


def test_the_loss_of_two_ranks_is_that_of_one_process():
    torch.testing.assert_close(torch.cat(run_ranks(loss_of_a_rank)), loss_of_a_rank())


def test_vectors_are_the_teachers_and_lie_in_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("SUZOO_CACHE", str(tmp_path))
    teacher = make_teacher(prompts={"q": "the dog "}, default_prompt_name="q")
    found = teacher_vectors(teacher, SENTENCES, fingerprint(SENTENCES))
    np.testing.assert_allclose(found, teacher.encode(SENTENCES, normalize=True), atol=1e-6)

    def fails(*args, **options):
        raise AssertionError("computed again")

    monkeypatch.setattr(teacher, "encode", fails)
    assert np.array_equal(teacher_vectors(teacher, SENTENCES, fingerprint(SENTENCES)), found)
    with torch.no_grad():  # another teacher
        teacher.encoder.embeddings.word_embeddings.weight[7] += 1
    with pytest.raises(AssertionError, match="computed again"):
        teacher_vectors(teacher, SENTENCES, fingerprint(SENTENCES))


def test_a_student_with_all_layers_and_tokens_is_the_teacher():
    teacher = make_teacher()
    student, tokenizer = make_student(Distillation(layers=(0, 1, 2), vocab_size=1000), teacher, SENTENCES)
    np.testing.assert_allclose(
        student.encode(SENTENCES, tokenizer=tokenizer), teacher.encode(SENTENCES), atol=1e-5, rtol=1e-4
    )
    assert student.config.vocab_size < teacher.config.vocab_size + 1 and student.projection is None


def test_the_tokens_that_are_kept_are_the_most_frequent():
    model = make_teacher()
    texts = ["a man"] * 9 + ["the dog"] * 5 + ["x"]
    tokenizer = cut_vocabulary(model, texts, 9)
    assert set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens) == {"a", "man", "the", "dog"}
    assert model.config.vocab_size == len(model.encoder.embeddings.word_embeddings.weight) == 9
    with pytest.raises(ValueError, match=r"--vocab-size 3 is less than the \d tokens"):
        cut_vocabulary(make_teacher(), texts, 3)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_a_narrow_student_keeps_what_weighs_and_starts_near_the_teacher(family):
    teacher = make_teacher(family)
    with torch.no_grad():  # two coordinates that are always the same
        for name, parameter in teacher.encoder.named_parameters():
            if name.endswith("LayerNorm.weight"):
                parameter[[3, 20]] = 0.0
    teacher.max_seq_length = 32
    student, _ = make_student(Distillation(hidden_size=24, layers=(0, 1, 2)), teacher, SENTENCES)
    words = teacher.encoder.embeddings.word_embeddings.weight
    columns = [column for column in range(32) if column not in (3, 20)]
    kept = student.encoder.embeddings.word_embeddings.weight
    found = [next(c for c in range(32) if torch.equal(words[:, c], kept[:, k])) for k in range(24)]
    assert set(found) <= set(columns) and found == sorted(found)
    query = teacher.encoder.encoder.layer[1].attention.self.query.weight[:, found]
    mine = student.encoder.encoder.layer[1].attention.self.query.weight
    heads = [h for h in range(4) if any(torch.equal(query[8 * h : 8 * h + 8], mine[i : i + 8]) for i in (0, 8, 16))]
    assert len(heads) == 3
    assert np.corrcoef(cosines(student), cosines(teacher))[0, 1] > 0.5
    vectors = student.encode(SENTENCES, normalize=True), teacher.encode(SENTENCES, normalize=True)
    assert (vectors[0] * vectors[1]).sum(1).mean() > 0.8


@pytest.mark.parametrize("size", [8, 32, 40])
def test_a_gru_starts_with_the_words_of_the_teacher(size):
    teacher = make_teacher()
    tokens = teacher.config.vocab_size
    teacher.encoder.resize_token_embeddings(tokens + 7)  # more rows than tokens, as many models have
    student, tokenizer = make_student(Distillation(encoder="gru", hidden_size=size), teacher, SENTENCES)
    embedding = student.encoder.get_input_embeddings()
    theirs = teacher.encoder.get_input_embeddings().weight.detach().double()[:tokens]
    theirs = theirs - theirs.mean(0)
    kept = min(size, 32)
    mine = embedding.weight[:, :kept].detach().double()
    others = torch.arange(len(mine)) != tokenizer.pad_token_id
    near = (mine @ mine.T)[others][:, others]
    u, s, _ = torch.linalg.svd(theirs)
    best = (u[:, :kept] * s[:kept] ** 2) @ u[:, :kept].T  # of this rank
    best = best[others][:, others]
    torch.testing.assert_close(near / near.norm(), best / best.norm(), atol=1e-6, rtol=1e-4)
    assert abs(float(mine.std()) - 1) < 0.1 and not embedding.weight[tokenizer.pad_token_id].any()
    vectors = student.encode(SENTENCES, normalize=True), teacher.encode(SENTENCES, normalize=True)
    if size != 32:  # a linear layer back, which is fitted
        assert (vectors[0] * vectors[1]).sum(1).mean() > 0.8


def test_layers_are_spread_and_picked():
    assert spread_layers(4, 12) == (0, 4, 7, 11) and spread_layers(1, 12) == (11,) and spread_layers(3, 3) == (0, 1, 2)
    with pytest.raises(ValueError, match="the teacher has 2; give --num-layers 2 or fewer"):
        spread_layers(4, 2)
    encoder = make_teacher().encoder
    layers = list(encoder.encoder.layer)
    assert list(keep_layers(encoder, (2, 0)).encoder.layer) == [layers[2], layers[0]]
    assert encoder.config.num_hidden_layers == 2
    with pytest.raises(ValueError, match="--layers 5: the teacher has layers 0 to 1"):
        keep_layers(encoder, (0, 5))
    with pytest.raises(ValueError, match="names a layer twice"):
        keep_layers(encoder, (1, 1))
    modernbert = make_teacher("modernbert").encoder
    with pytest.raises(ValueError, match="cannot be picked: give a student by --model"):
        keep_layers(modernbert, (0,))
    batch = {name: torch.ones(1, 2, dtype=torch.long) for name in ("input_ids", "attention_mask")}
    with pytest.raises(ValueError, match="narrower than 32 is a multiple of 8"):
        narrow(make_teacher().encoder, 12, batch)


def test_what_a_user_can_get_wrong(tmp_path, monkeypatch, capsys, folder):
    monkeypatch.chdir(tmp_path)

    def refuse(recipe, *arguments):
        flags = ["--output-dir", tmp_path / "run", *FLAGS, *arguments]
        return refused(monkeypatch, capsys, train_distill, recipe, *flags)

    assert "train out/quickstart first (train_cosent.py quickstart)" in refuse("quickstart")
    assert "Give a trained encoder by --teacher" in refuse("finetune")
    assert "leave nothing to learn" in refuse("quickstart", "--cosine-weight", "0", "--relation-weight", "0")
    teacher = ["--teacher", folder]
    assert "layers 0 to 2" in refuse("quickstart", *teacher, "--layers", "3")
    small = tmp_path / "small"
    torch.manual_seed(0)
    student = CoSENTModel(tiny_config(hidden_size=16, num_hidden_layers=1), pooling="mean")
    student.tokenizer = tiny_tokenizer()
    student.save_pretrained(small)
    told = refuse("quickstart", *teacher, "--model", small)
    assert "have 16 numbers and the teacher's 32" in told and "--cosine-weight 0 leaves the relations" in told
