"""What is tested on a CPU everywhere gives the same numbers on a GPU: `pytest -m gpu`.

Each test computes in float64 on the CPU and on the device in the precision that users take there.
"""

from __future__ import annotations

import copy
import json

from recipes import frame

import numpy as np
import pytest
import torch
import train_cosent
import train_dialogpt

from suzoo.losses import contrastive_loss, cosent_loss, multilabel_cross_entropy
from suzoo.models import CoSENTModel
from suzoo.models._linear_attention import LINEAR_KINDS
from suzoo.models._position_kinds import POSITIONS
from tests.hub.folders import make_encoder
from tests.models.tiny import source_target, tiny, tokens
from tests.optimizers._cases import CASES, make_params, set_grads
from tests.tiny import SENTENCES, tiny_tokenizer
from tests.training.scripts import run

pytestmark = pytest.mark.gpu
WAYS = {
    **{name: {"position_embedding_type": name, "rope_window": 4} for name in POSITIONS},
    "window": {"position_embedding_type": "rope", "attention_window": 4, "attention_sinks": 1},
    "log n": {"position_embedding_type": "rope", "log_n": "train", "log_n_base": 4},
    **{kind: {"attention_type": kind} for kind in LINEAR_KINDS},
}
UNLIKE = {"tta": ("xpos", "efficient"), "unilm": ("xpos",)}  # what a family does not take


@pytest.mark.parametrize("family", ["dialogpt", "unilm", "tta"])
@pytest.mark.parametrize("way", WAYS)
def test_models_give_the_logits_and_gradients_of_the_cpu(device, family, way):
    if way in UNLIKE.get(family, ()):
        pytest.skip(f"{family} does not take {way}")
    ids, mask = tokens(2, 12), torch.tensor([[1] * 12, [0] * 3 + [1] * 9])
    inputs = {"input_ids": ids, "attention_mask": mask}
    if family == "unilm":
        inputs["token_type_ids"] = source_target(2, 5, 7)
    exact = tiny(family, initializer_range=0.1, **WAYS[way])
    there = copy.deepcopy(exact).float().to(device)
    found, expected = [], []
    for model, place, results in ((exact, "cpu", expected), (there, device, found)):
        given = {name: value.to(place) for name, value in inputs.items()}
        logits = model(**given).logits[given["attention_mask"].bool()]
        logits.logsumexp(-1).sum().backward()
        results += [logits, model.bert.embeddings.word_embeddings.weight.grad]
    for ours, right in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.double().cpu(), right, rtol=2e-3, atol=2e-3)
    low = there.bfloat16()(**{name: value.to(device) for name, value in inputs.items()}).logits
    assert (low.double().cpu()[mask.bool()] - expected[0]).abs().max() < 0.3


@pytest.mark.parametrize("way", ["absolute", "rope", "rerope", "window", "elu1"])
def test_generating_with_a_cache_is_as_without(device, way):
    model = tiny("dialogpt", eos_token_id=None, **WAYS[way]).to(device)
    inputs = {
        "input_ids": tokens(2, 6).to(device),
        "attention_mask": torch.tensor([[1] * 6, [0, 0] + [1] * 4]).to(device),
    }
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    expected = model.generate(**inputs, **options, use_cache=False)
    assert torch.equal(model.generate(**inputs, **options), expected)


@pytest.mark.parametrize("name", CASES)
def test_optimizers_step_as_on_the_cpu(device, name):
    case, results = CASES[name], []
    for place in ("cpu", device):
        params = make_params(device=str(place))
        optimizer = case.make(params)
        for step in range(4 * case.k):
            set_grads(params, step)
            optimizer.step()
            optimizer.zero_grad()
        results.append([param.detach().cpu() for param in params])
    for ours, right in zip(*results, strict=True):
        torch.testing.assert_close(ours, right, rtol=1e-4, atol=1e-5)


def test_losses_are_those_of_the_cpu(device):
    scores = torch.randn(16, 16, dtype=torch.float64)
    labels = torch.arange(16) % 4
    for loss in (
        lambda s, y: cosent_loss(s[0], y),
        lambda s, y: contrastive_loss(s, s.flip(0)),
        lambda s, y: multilabel_cross_entropy(s, (y[:, None] == y).long()),
    ):
        found = loss(scores.float().to(device), labels.to(device))
        torch.testing.assert_close(found.double().cpu(), loss(scores, labels), rtol=1e-4, atol=1e-5)


def test_vectors_are_those_of_the_cpu(device, tmp_path):
    make_encoder().save_pretrained(tmp_path, tokenizer=tiny_tokenizer())
    expected = CoSENTModel.from_pretrained(tmp_path).encode(SENTENCES)
    model = CoSENTModel.from_pretrained(tmp_path).to(device)
    np.testing.assert_allclose(model.encode(SENTENCES), expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(model.bfloat16().encode(SENTENCES), expected, rtol=0.1, atol=0.1)


@pytest.mark.parametrize(("script", "flags"), [(train_cosent, []), (train_dialogpt, ["--max-scored", "0"])])
def test_a_script_trains_in_bf16_and_resumes(device, tmp_path, monkeypatch, script, flags):
    """On the device that Accelerate takes; with a GPU the run is there."""
    monkeypatch.setattr(frame, "publish", lambda *arguments: None)
    flags = [*flags, "--hidden-size", "32", "--num-layers", "1", "--max-train-samples", "96", "--max-dev-samples", "16"]
    flags += ["--precision", "bf16", "--evaluate-every", "3", "--output-dir", tmp_path / "run", "--max-steps", "6"]
    run(monkeypatch, script, "quickstart", *flags)
    run(monkeypatch, script, "quickstart", *flags, "--resume")
    losses = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in losses if "dev" in line] == [3, 6]
    assert all(np.isfinite(line["loss"]) for line in losses if "loss" in line)
