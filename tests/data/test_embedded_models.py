"""The models that come with the package: open as any folder, small, of use, free to hand on."""

from __future__ import annotations

import json

from recipes.zoo import MEMBERS

import numpy as np
import pytest
import torch
import train_cosent
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from hub_scripts import embed_model
from suzoo.cli import main
from suzoo.data import load_tokenizer
from suzoo.data.embedded import model_folder
from suzoo.hub.check import check_folder
from suzoo.models import CoSENTModel
from suzoo.reach import EMBEDDED_MODELS, check_folder_or_hub
from tests.hub.folders import finish_run, make_cross_encoder, make_encoder, open_doors_here
from tests.training.scripts import run

NAMES = sorted(path.name for path in EMBEDDED_MODELS.iterdir())
MADE_AS = {"cosent-zh-mini": "cosent-zh-mini-open"}  # embedded name -> the member of the zoo it is
MINI = "embedded:cosent-zh-mini"
# a text, one that says the same in other words, one with the same words that does not
TRIPLES = [
    ("怎么修改登录密码", "我想换一个新的账号口令", "怎么修改收货地址"),
    ("今天天气很好", "外面阳光明媚", "今天心情很差"),
    ("这家餐厅的菜很好吃", "这里的饭菜味道不错", "这家餐厅的老板很年轻"),
    ("他上周买了一辆新车", "他前几天购置了一台汽车", "他上周卖了一套旧房"),
    ("火车晚点了一个小时", "列车延误了六十分钟", "会议推迟了一个星期"),
    ("我不喜欢吃辣的", "辣味的食物不合我的口味", "我喜欢早起"),
]


@pytest.mark.parametrize("name", NAMES)
def test_every_door_opens_and_the_files_are_small(name):
    folder = EMBEDDED_MODELS / name
    check_folder(folder)
    assert sum(path.stat().st_size for path in folder.rglob("*")) < 13e6
    with safe_open(folder / "model.safetensors", framework="pt") as weights:
        assert {weights.get_slice(key).get_dtype() for key in weights.keys()} == {"F16"}  # noqa: SIM118
    assert {p.dtype for p in CoSENTModel.from_pretrained(folder).parameters()} == {torch.float32}


@pytest.mark.parametrize("name", NAMES)
def test_every_source_has_a_licence_that_permits_it(name):
    licences = (EMBEDDED_MODELS.parent / "LICENSES.md").read_text(encoding="utf-8")
    member = MEMBERS[MADE_AS[name]]
    trained_on = [*member.train.values(), *member.texts]
    assert f"`embedded:{name}`" in licences and member.base in licences
    for source in (member.sources[part.source] for part in trained_on):
        assert source.repository in licences
        assert source.licence.split()[0] in ("MIT", "Apache-2.0", "BSD-3-Clause", "CC")
        assert "NC" not in source.licence and "ND" not in source.licence and "SA" not in source.licence


def test_it_finds_what_means_the_same_where_words_do_not_help():
    model = CoSENTModel.from_pretrained(model_folder(MINI))
    vectors = model.encode([text for triple in TRIPLES for text in triple], normalize=True).reshape(len(TRIPLES), 3, -1)
    same, other = (np.einsum("nd,nd->n", vectors[:, 0], vectors[:, place]) for place in (1, 2))
    assert (same > other).sum() >= 4


def test_the_commands_take_its_name(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    open_doors_here(monkeypatch)
    texts = tmp_path / "texts.txt"
    texts.write_text("今天天气很好\n外面阳光明媚\n", encoding="utf-8")
    assert main(["encode", MINI, str(texts), "--output", str(tmp_path / "vectors.npy")]) == 0
    expected = CoSENTModel.from_pretrained(model_folder(MINI)).encode(["今天天气很好", "外面阳光明媚"])
    np.testing.assert_allclose(np.load(tmp_path / "vectors.npy"), expected, atol=1e-5)
    assert main(["verify", MINI]) == 0
    assert "SentenceTransformer" in capsys.readouterr().out
    with pytest.raises(SystemExit) as end:
        main(["encode", "embedded:cosent-zh-mimi", str(texts), "--output", str(tmp_path / "again.npy")])
    told = capsys.readouterr().err
    assert end.value.code == 2 and "there is no embedded:cosent-zh-mimi (did you mean 'cosent-zh-mini'?)" in told


def test_training_starts_from_it_and_keeps_its_name(tmp_path, monkeypatch):
    open_doors_here(monkeypatch)
    out = tmp_path / "out"
    small = ["--max-steps", "1", "--max-train-samples", "64", "--max-dev-samples", "64", "--cpu-threads", "1"]
    run(monkeypatch, train_cosent, "quickstart", "--model", MINI, "--lr", "1e-9", *small, "--output-dir", str(out))
    assert json.loads((out / "run.json").read_text(encoding="utf-8"))["recipe"]["model"] == MINI
    assert MINI in (out / "README.md").read_text(encoding="utf-8")
    before, after = (CoSENTModel.from_pretrained(folder).encode(["今天"]) for folder in (model_folder(MINI), out))
    np.testing.assert_allclose(before, after, atol=1e-4)
    with pytest.raises(ValueError, match="there is no embedded:nothing; there is cosent-zh-mini"):
        check_folder_or_hub("embedded:nothing")
    with pytest.raises(ValueError, match="there is no embedded:models/cosent-zh-mini"):
        check_folder_or_hub("embedded:models/cosent-zh-mini")


def test_an_encoder_is_embedded_with_its_own_vectors(tmp_path, monkeypatch, capsys):
    open_doors_here(monkeypatch)
    folder = finish_run(make_encoder(), tmp_path / "trained")
    for _ in range(2):  # a second time it replaces the first
        assert embed_model.main([str(folder), "tiny", "--into", str(tmp_path / "models")]) == 0
    model, embedded = CoSENTModel.from_pretrained(folder), CoSENTModel.from_pretrained(tmp_path / "models/tiny")
    rounded = {name: value.half().float() for name, value in model.state_dict().items()}
    assert all(torch.equal(value, rounded[name]) for name, value in embedded.state_dict().items())
    assert len(load_tokenizer(str(tmp_path / "models/tiny"))) == len(load_tokenizer(str(folder)))
    other = finish_run(make_cross_encoder(), tmp_path / "reranker")
    assert embed_model.main([str(other), "tiny", "--into", str(tmp_path / "models")]) == 2
    assert "is not a sentence encoder" in capsys.readouterr().err
    weights = tmp_path / "models/tiny/model.safetensors"
    before = weights.read_bytes()
    damaged = load_file(folder / "model.safetensors")
    next(iter(damaged.values())).fill_(float("nan"))
    save_file(damaged, folder / "model.safetensors", metadata={"format": "pt"})
    assert embed_model.main([str(folder), "tiny", "--into", str(tmp_path / "models")]) == 2
    assert weights.read_bytes() == before and [path.name for path in weights.parents[1].iterdir()] == ["tiny"]
