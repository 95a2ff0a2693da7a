"""verify on language models: every promised way gives the golden tokens and texts, and what is wrong is found."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from suzoo.hub import questions
from suzoo.hub import verify as v
from suzoo.hub.golden import check_with_suzoo, write_golden
from suzoo.hub.publish import publish
from suzoo.models._tokenizer_files import save_tokenizer
from tests.hub.folders import LANGUAGE_MODELS, METRICS, RUN, make_language_model, open_doors_here
from tests.tiny import tiny_tokenizer

CAUSAL = ("AutoTokenizer", "AutoModelForCausalLM", "text-generation pipeline", "saved by AutoModelForCausalLM")
MASKED = ("AutoTokenizer", "AutoModelForMaskedLM", "fill-mask pipeline", "saved by AutoModelForMaskedLM")
WITH_CODE = {doors: tuple(f"{name}, trust_remote_code" for name in doors) for doors in (CAUSAL, MASKED)}
DOORS = {
    "blog": ["files", *WITH_CODE[CAUSAL]],
    "dialogue": ["files", *CAUSAL],
    "gpt2": ["files", *CAUSAL],
    "unilm": ["files", *WITH_CODE[CAUSAL], "BertForMaskedLM"],
    "tta": ["files", *WITH_CODE[MASKED]],
    "mlm": ["files", *MASKED],
}


@pytest.fixture
def copy(language_folders, tmp_path):
    """`copy(name)`: a folder to be broken."""
    return lambda name: Path(shutil.copytree(language_folders[name], tmp_path / name))


def flip(folder: Path, tensor: str) -> None:
    weights = load_file(str(folder / "model.safetensors"))
    weights[tensor] = weights[tensor].copy()
    weights[tensor][..., 0] *= -1
    save_file(weights, str(folder / "model.safetensors"), metadata={"format": "pt"})


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_every_door_is_promised_and_opens_with_suzoo(name, language_folders):
    promise = v.read_promise(language_folders[name])
    assert promise["doors"] == DOORS[name]
    door = check_with_suzoo(language_folders[name])
    assert door.status == "ok" and door.difference < 1e-5, door.note
    if "new_tokens" in promise:
        assert max(promise["new_tokens"]) == questions.MAX_NEW_TOKENS and len(promise["inputs"]) >= 4
        assert isinstance(promise["inputs"][0], list) == (name in ("blog", "dialogue"))


@pytest.mark.parametrize("name", ["dialogue", "unilm", "tta"])
def test_linear_attention_verifies_though_it_refuses_packed_rows(name, tmp_path):
    model, tokenizer = make_language_model(name)
    config = type(model.config)(**(model.config.to_dict() | {"attention_type": "elu1"}))
    model = type(model)(config).eval()
    model.save_pretrained(tmp_path)
    save_tokenizer(tokenizer, tmp_path)
    write_golden(model, tokenizer, tmp_path)
    door = check_with_suzoo(tmp_path)
    assert door.status == "ok", door.note


OPENED = ["blog", "dialogue", "unilm", "tta"]
OPEN = """
import runpy, sys
package, root, *names = {arguments}
for name in names:
    sys.argv = ["verify", "--child", f"{{root}}/{{name}}.jsonl", f"{{root}}/{{name}}"]
    try:
        runpy.run_path(package, run_name="__main__")
    except SystemExit as end:
        assert not end.code
"""


@pytest.fixture(scope="module")
def opened(language_folders, tmp_path_factory) -> dict[str, list[v.Door]]:
    """What `verify` says of the folders. Its program runs for one after the other in one process without suzoo, which
    has imported torch once."""
    root = tmp_path_factory.mktemp("opened")
    for name in OPENED:
        (root / name).symlink_to(language_folders[name])
    program = OPEN.format(arguments=[str(Path(v.__file__).parent), str(root), *OPENED])
    _, why = v.run_apart(["-c", program], root, timeout=300)
    said = {name: root / f"{name}.jsonl" for name in OPENED}
    assert all(path.exists() for path in said.values()), why
    return {name: [v.Door(**json.loads(line)) for line in path.read_text().splitlines()] for name, path in said.items()}


@pytest.mark.parametrize("name", OPENED)
def test_every_door_opens_without_suzoo(name, opened):
    doors = opened[name]
    assert [(door.name, door.status) for door in doors] == [(door, "ok") for door in DOORS[name]], v.format_table(doors)


@pytest.mark.parametrize("name", ["gpt2", "mlm"])
def test_doors_of_stock_models(name, language_folders):
    doors = [v.check_promised_door(door, language_folders[name]) for door in DOORS[name]]
    assert [door.status for door in doors] == ["ok"] * 5, v.format_table(doors)


def test_a_flipped_weight_fails_every_door(copy):
    for name, tensor in [
        ("dialogue", "bert.encoder.layer.1.attention.self.query.weight"),
        ("mlm", "cls.predictions.transform.dense.weight"),
    ]:
        folder = copy(name)
        flip(folder, tensor)
        doors = [v.check_promised_door(door, folder) for door in DOORS[name][2:]] + [check_with_suzoo(folder)]
        assert [door.status for door in doors] == ["failed"] * 4, v.format_table(doors)
    folder = copy("unilm")
    flip(folder, "bert.embeddings.token_type_embeddings.weight")
    assert v.check_promised_door("BertForMaskedLM", folder).status == "failed"


def test_a_lost_decoder_fails_the_pipeline_alone(copy):
    """BERT's decoder puts spaces between Chinese characters; the tokens are the same."""
    folder = copy("gpt2")
    state = json.loads((folder / "tokenizer.json").read_text())
    state["decoder"] = json.loads(tiny_tokenizer().backend_tokenizer.to_str())["decoder"]
    (folder / "tokenizer.json").write_text(json.dumps(state))
    model, pipeline = (v.check_promised_door(door, folder) for door in DOORS["gpt2"][2:4])
    assert model.status == "ok"
    assert pipeline.status == "failed" and "promised is" in pipeline.note


def test_a_changed_chat_template_fails(copy):
    folder = copy("dialogue")
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    assert [v.check_promised_door(door, folder).status for door in DOORS["dialogue"][2:]] == ["failed"] * 3


def test_code_that_needs_suzoo_fails(copy):
    folder = copy("tta")
    with (folder / "modeling_tta.py").open("a") as code:
        code.write("\nimport suzoo.models\n")
    doors = v.verify(folder, trust_remote_code=True)
    assert [door.status for door in doors] == ["ok"] * 2 + ["failed"] * 3 and "suzoo is blocked" in doors[2].note


def test_token_ids_are_compared_exactly():
    expected = {"generated": np.array([[100_000, 7]]), "logits": np.array([[100_000.0, 7.0]])}
    assert v.compare({name: array + 0 for name, array in expected.items()}, expected) == (0.0, "")
    _, note = v.compare({"generated": np.array([[100_001, 7]]), "logits": expected["logits"]}, expected)
    assert note.startswith("generated differs")
    assert v.compare({**expected, "logits": expected["logits"] + 0.5}, expected)[1] == ""


def test_continuations_end_before_a_tie(tmp_path):
    """Which of two equally likely tokens comes first is a matter of rounding, so it is not promised."""
    model, tokenizer = make_language_model("gpt2")
    settled = questions._settled_tokens(model, tokenizer, "a man")
    assert len(settled) == questions.MAX_NEW_TOKENS
    steps = []

    def tie(module, inputs, output):
        steps.append(None)
        if len(steps) == 4:
            output.logits[:, -1] = output.logits[:, -1].clamp_max(output.logits[:, -1].topk(2).values[..., -1:])

    model.register_forward_hook(tie)
    assert questions._settled_tokens(model, tokenizer, "a man") == settled[:3]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="does not prefer any token"):
        write_golden(model, tokenizer, tmp_path)


def test_golden_of_a_bf16_model_is_the_float32_answer_of_its_weights(tmp_path):
    model, tokenizer = make_language_model("tta")
    model.to(torch.bfloat16).train()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    write_golden(model, tokenizer, tmp_path)
    assert model.dtype == torch.bfloat16 and model.training
    assert check_with_suzoo(tmp_path).status == "ok"


def test_the_score_of_tta_is_golden(language_folders):
    folder = language_folders["tta"]
    model, tokenizer = make_language_model("tta")
    expected = model.score(v.read_promise(folder)["inputs"], tokenizer=tokenizer)
    np.testing.assert_allclose(v.read_golden(folder)["score"], expected, rtol=1e-6)
    assert len(expected) > 5 and "score" not in v.read_golden(language_folders["mlm"])


def test_publish_checks_every_door_and_writes_the_card(tmp_path, monkeypatch, capsys):
    model, tokenizer = make_language_model("unilm")
    model.save_pretrained(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps(RUN))
    (tmp_path / "metrics.json").write_text(json.dumps(METRICS))
    with monkeypatch.context() as patch, pytest.raises(ValueError, match="does not verify"):
        open_doors_here(patch)
        publish(model, tokenizer, tmp_path)  # the tokenizer was not saved
    tokenizer.save_pretrained(tmp_path)
    capsys.readouterr()
    publish(model, tokenizer, tmp_path)
    out = capsys.readouterr().out
    assert out.count(" ok ") == 8 and f"verified: {tmp_path}" in out
    assert "sequence-to-sequence" in (tmp_path / "README.md").read_text()
