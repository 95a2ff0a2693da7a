"""verify opens what is promised, without suzoo, and a folder that is wrong in any one place does not pass."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from suzoo.hub import verify as v
from suzoo.hub.golden import check_all_with_suzoo, check_with_suzoo, save_golden, write_golden
from suzoo.hub.verify.__main__ import main
from suzoo.models import CoSENTModel
from tests.hub.folders import finish_run, make_cross_encoder, make_encoder, opens_remote_code_over_a_stock_config
from tests.tiny import FAMILIES, tiny_tokenizer


@pytest.fixture
def broken(encoder_folder, tmp_path) -> Path:
    """A copy of the encoder's folder, to be broken."""
    return Path(shutil.copytree(encoder_folder, tmp_path / "broken"))


@pytest.fixture
def broken_code(coded_folders, tmp_path) -> Path:
    """A copy of the folder of an encoder that carries its code, to be broken."""
    return Path(shutil.copytree(coded_folders["encoder"], tmp_path / "broken-code"))


def promise_only(folder: Path, doors: list[str]) -> None:
    save_golden(folder, v.read_golden(folder), v.read_promise(folder) | {"doors": doors})


def flip_one_weight(folder: Path) -> None:
    weights = load_file(str(folder / "model.safetensors"))
    name = "encoder.layer.1.attention.self.query.weight"
    weights[name][0, 0] *= -1
    save_file(weights, str(folder / "model.safetensors"), metadata={"format": "pt"})


def test_every_door_of_the_encoder_opens_without_suzoo(encoder_folder):
    doors = v.verify(encoder_folder)
    resaves = ["saved by SentenceTransformer", "saved by AutoModel"]
    assert [door.name for door in doors] == ["files", "AutoTokenizer", "SentenceTransformer", "AutoModel", *resaves]
    assert [door.status for door in doors] == ["ok"] * 6, v.format_table(doors)
    assert v.passed([*doors, check_with_suzoo(encoder_folder)])


def test_folders_carry_no_code_unless_asked_for(encoder_folder, cross_encoder_folder, coded_folders):
    for folder in (encoder_folder, cross_encoder_folder):
        assert not list(folder.rglob("*.py")) and "auto_map" not in json.loads((folder / "config.json").read_text())
        assert not [name for name in v.read_promise(folder)["doors"] if "trust" in name]
    for folder in coded_folders.values():
        assert list(folder.glob("modeling_cosent*.py")) and "trust" in v.read_promise(folder)["doors"][-1]


def test_every_door_of_the_cross_encoder_opens_as_a_plain_file(cross_encoder_folder):
    """The script is run as somebody without suzoo would: `python suzoo/hub/verify FOLDER`."""
    done = subprocess.run(
        [sys.executable, str(Path(v.__file__).parent), str(cross_encoder_folder)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(" ok ") == 7
    assert check_with_suzoo(cross_encoder_folder).status == "ok"


@opens_remote_code_over_a_stock_config
def test_wrong_pooling_and_code_that_needs_suzoo_fail_at_their_own_doors(broken_code):
    broken = broken_code
    pooling = json.loads((broken / "1_Pooling/config.json").read_text())
    pooling |= {"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}
    (broken / "1_Pooling/config.json").write_text(json.dumps(pooling))
    with (broken / "modeling_cosent.py").open("a") as code:
        code.write("\nimport suzoo.models\n")
    doors = {door.name: door for door in v.verify(broken, trust_remote_code=True)}
    sentence_transformer, auto_model = doors["SentenceTransformer"], doors["AutoModel"]
    remote = doors["AutoModel, trust_remote_code"]
    assert sentence_transformer.status == "failed" and "pools by cls" in sentence_transformer.note
    assert auto_model.status == "ok"
    assert remote.status == "failed" and "suzoo" in remote.note
    assert check_with_suzoo(broken).status == "failed"


@opens_remote_code_over_a_stock_config
def test_a_process_that_dies_fails_the_door_it_died_in(broken_code):
    broken = broken_code
    promise_only(broken, ["AutoModel", "AutoModel, trust_remote_code"])
    with (broken / "modeling_cosent.py").open("a") as code:
        code.write("\nimport os\nos._exit(7)\n")
    first, second = v.verify(broken, trust_remote_code=True)
    assert first.status == "ok"
    assert second.status == "failed" and "code 7" in second.note


def test_a_flipped_weight_fails_every_door(broken):
    flip_one_weight(broken)
    for name in ["SentenceTransformer", "AutoModel"]:
        door = v.check_promised_door(name, broken)
        assert door.status == "failed" and door.difference > 1e-5 and "differs by" in door.note
    assert check_with_suzoo(broken).status == "failed"


def test_a_missing_tokenizer_fails_every_door(broken):
    for path in broken.glob("tokenizer*"):
        path.unlink()
    doors = [v.check_promised_door(name, broken) for name in ["SentenceTransformer", "AutoModel"]]
    own = check_with_suzoo(broken)
    assert [door.status for door in [*doors, own]] == ["failed"] * 3
    assert "no usable tokenizer" in own.note  # AutoTokenizer makes one up of special tokens alone
    assert not v.passed(doors)


@pytest.mark.parametrize("kind", ["encoder", "cross_encoder"])
def test_suzoo_opens_what_sentence_transformers_saved_again(kind, request, tmp_path):
    folder = request.getfixturevalue(f"{kind}_folder")
    for name in [name for name in v.read_promise(folder)["doors"] if name.startswith("saved by ")]:
        door = v.check_promised_door(name, folder, scratch=tmp_path)
        assert door.status == "ok", door.note
    (again,) = tmp_path.iterdir()  # and not what transformers saved, who knows no pooling
    assert again.name in ("saved by SentenceTransformer", "saved by CrossEncoder")
    door, same = check_all_with_suzoo(folder, [str(again)])
    assert same.name == f"{door.name}, {again.name}" and door.status == same.status == "ok"


def test_what_is_lost_when_saved_again_is_named(encoder_folder, monkeypatch):
    def save_with_another_pooling(folder, target):
        shutil.copytree(folder, target)
        pooling = {"pooling_mode": "cls", "embedding_dimension": 32, "include_prompt": True}
        Path(target, "1_Pooling/config.json").write_text(json.dumps(pooling))

    name = "saved by SentenceTransformer"
    monkeypatch.setitem(v.resaves.RESAVES, name, v.resaves.RESAVES[name]._replace(save=save_with_another_pooling))
    door = v.check_promised_door(name, encoder_folder)
    assert door.status == "failed" and door.note == "SentenceTransformer: pools by cls, promised is mean"


def test_a_door_whose_library_is_missing_is_not_passed(encoder_folder, monkeypatch):
    monkeypatch.setattr(v.doors.importlib.util, "find_spec", lambda name: None)
    door = v.check_promised_door("SentenceTransformer", encoder_folder)
    assert (door.status, door.note) == ("not checked", "install sentence-transformers")
    assert not v.passed([door])
    assert v.passed([door, v.Door("AutoModel", "ok", 0.0)])
    assert "not checked" in v.format_table([door])


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("encoder", "AutoModel, trust_remote_code"),
        ("cross_encoder", "AutoModelForSequenceClassification, trust_remote_code"),
    ],
)
def test_remote_code_over_a_stock_config_is_not_checked_with_old_transformers(kind, name, coded_folders, monkeypatch):
    monkeypatch.setattr(v.doors.importlib.metadata, "version", lambda name: "5.18.2")
    door = v.check_promised_door(name, coded_folders[kind])
    assert (door.status, door.note) == ("not checked", "needs transformers 5.19 or later")
    monkeypatch.setattr(v.doors.importlib.metadata, "version", lambda name: "5.19.0")
    assert v.unmet(v.STOCK_CONFIG_REMOTE_CODE) == ""


@pytest.mark.parametrize(
    ("outputs", "wrong"),
    [
        ({"output": [[1.0, 2.0]]}, ""),
        ({"output": [[1.0, 2.0 + 1.9e-5]]}, ""),
        ({"output": [[1.0, 2.0 + 2.1e-5]]}, "differs"),
        ({"output": [[1.0, float("nan")]]}, "differs"),
        ({"output": [[1.0, 2.0, 3.0]]}, "shape"),
        ({"output": [[1.0, 2.0]], "more": [0.0]}, "outputs"),
        ({}, "outputs"),
    ],
)
def test_compare(outputs, wrong):
    """The tolerance is 1e-5 of the largest golden value."""
    _, note = v.compare(outputs, {"output": np.array([[1.0, 2.0]])})
    assert wrong in note and bool(note) == bool(wrong)


def test_a_folder_that_promises_nothing_is_said_in_one_sentence(broken, tmp_path, capsys):
    with pytest.raises(ValueError, match="is not a folder"):
        v.verify(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"no golden\.safetensors"):
        v.verify(tmp_path)
    promise_only(broken, [])
    with pytest.raises(ValueError, match="promises no door"):
        v.verify(broken)
    save_golden(broken, v.read_golden(broken), {"doors": ["AutoModel", "TensorFlow"]})
    with pytest.raises(ValueError, match="does not know: TensorFlow"):
        v.verify(broken)
    golden = broken / v.GOLDEN_FILE
    golden.write_bytes(golden.read_bytes()[:20])
    with pytest.raises(ValueError, match="is damaged"):
        v.verify(broken)
    assert main([str(broken)]) == 2
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.slow
@opens_remote_code_over_a_stock_config
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_opens_through_every_door(family, tmp_path):
    for name, model in [("encoder", make_encoder("cls", family)), ("cross", make_cross_encoder(family))]:
        doors = v.verify(finish_run(model, tmp_path / name, with_code=True))
        assert all(door.status == "ok" for door in doors), v.format_table(doors)


# ---- golden tensors


def test_golden_of_a_bf16_model_is_the_float32_answer_of_its_weights(tmp_path):
    model = make_encoder("cls").to(torch.bfloat16).train()
    model.save_pretrained(tmp_path, tokenizer=tiny_tokenizer())
    write_golden(model, tiny_tokenizer(), tmp_path)
    assert model.dtype == torch.bfloat16 and model.training
    assert check_with_suzoo(tmp_path).status == "ok"
    assert v.check_promised_door("AutoModel", tmp_path).status == "ok"


def test_first_last_avg_promises_only_the_doors_it_has(tmp_path):
    model = make_encoder("first-last-avg")
    model.save_pretrained(tmp_path, tokenizer=tiny_tokenizer())
    write_golden(model, tiny_tokenizer(), tmp_path)
    assert v.read_promise(tmp_path)["doors"] == ["files", "AutoTokenizer", "AutoModel", "saved by AutoModel"]
    assert [v.check_promised_door("AutoModel", tmp_path).status, check_with_suzoo(tmp_path).status] == ["ok", "ok"]


def test_normalized_vectors_are_promised_normalized(tmp_path):
    model = make_encoder("mean", normalize=True)
    model.save_pretrained(tmp_path, tokenizer=tiny_tokenizer())
    write_golden(model, tiny_tokenizer(), tmp_path)
    np.testing.assert_allclose(np.linalg.norm(v.read_golden(tmp_path)["output"], axis=1), 1, atol=1e-6)
    assert [v.check_promised_door(name, tmp_path).status for name in ["SentenceTransformer", "AutoModel"]] == ["ok"] * 2


def test_a_model_that_answers_nan_has_no_golden(tmp_path):
    model = make_encoder()
    with torch.no_grad():
        model.encoder.embeddings.LayerNorm.weight[0] = torch.nan
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="NaN"):
        write_golden(model, tiny_tokenizer(), tmp_path)
    with pytest.raises(ValueError, match="Linear"):
        write_golden(torch.nn.Linear(1, 1), tiny_tokenizer(), tmp_path)


def test_golden_inputs_reach_beyond_the_longest_input(encoder_folder):
    """One of the texts is cut, or truncation would go unchecked."""
    promise = v.read_promise(encoder_folder)
    model = CoSENTModel.from_pretrained(encoder_folder)
    _, truncated = model.encode(promise["inputs"], return_truncated=True)
    assert (truncated > 0).any() and (truncated == 0).any()
    assert "" in promise["inputs"]
