"""Which kinds of positions and attention leave for other runtimes: torch.export, ONNX and compiled flex attention.

Every family by torch.export, DialoGPT by the others; flex in every family is in `test_every_kind.py`. What does not
leave says so in one sentence.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from suzoo.models._linear_attention import LINEAR_KINDS
from suzoo.models._position_kinds import POSITIONS
from tests.models.test_every_kind import refused
from tests.models.tiny import FAMILIES, tiny, tokens

WAYS = {
    **{name: {"position_embedding_type": name} for name in POSITIONS},
    "window": {"position_embedding_type": "rope", "attention_window": 4, "attention_sinks": 1},
    "log n": {"position_embedding_type": "rope", "log_n": "train"},
    **{kind: {"attention_type": kind, "position_embedding_type": "none"} for kind in LINEAR_KINDS},
}


def model_of(way: str, family: str = "dialogpt"):
    return tiny(family, double=False, rope_window=4, log_n_base=4, num_hidden_layers=2, **WAYS[way])


class Logits(torch.nn.Module):
    def __init__(self, model) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids):
        return self.model(input_ids, **self.options(input_ids)).logits

    def options(self, input_ids):
        """UniLM: the first half is source."""
        if self.model.config.model_type == "tta":
            return {}
        if self.model.config.model_type == "dialogpt":
            return {"use_cache": False}
        places = torch.arange(input_ids.shape[1])
        return {"use_cache": False, "token_type_ids": (2 * places >= input_ids.shape[1]).long().expand_as(input_ids)}


QUICK = {("dialogpt", "absolute"), ("dialogpt", "leaky_rerope"), ("unilm", "window")}
EVERY = [(family, way) for family in FAMILIES for way in WAYS if not refused(family, way)]


@pytest.mark.parametrize(
    ("family", "way"), [pytest.param(*case, marks=[] if case in QUICK else pytest.mark.slow) for case in EVERY]
)
def test_torch_export_of_any_length(family, way):
    model = model_of(way, family)
    length = torch.export.Dim("length", min=2, max=60)  # shorter than the example, too
    shapes = {"input_ids": {1: length}}
    exported = torch.export.export(Logits(model), (), {"input_ids": tokens(2, 9)}, dynamic_shapes=shapes, strict=False)
    for number in (2, 9, 23):
        ids = tokens(2, number, seed=5)
        found = exported.module()(input_ids=ids)
        torch.testing.assert_close(found, Logits(model)(ids), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_onnx(way, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    model, ids = model_of(way), tokens(2, 9)
    with torch.no_grad():
        torch.onnx.export(Logits(model), (ids,), tmp_path / "model.onnx", dynamo=True, input_names=["input_ids"])
    session = runtime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    other = tokens(2, 9, seed=5)
    (found,) = session.run(None, {"input_ids": other.numpy()})
    np.testing.assert_allclose(found, model(other).logits.detach().numpy(), rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@torch.no_grad()  # flex has no backward on a CPU
@pytest.mark.parametrize("way", WAYS)
def test_flex_attention(way):
    model, ids = model_of(way), tokens(2, 9)
    expected = model(ids).logits
    if way == "nezha":
        with pytest.raises(ValueError, match="flex"):
            model.set_attn_implementation("flex_attention")
        return
    model.set_attn_implementation("flex_attention")
    torch.testing.assert_close(model(ids).logits, expected, rtol=1e-3, atol=1e-3)
