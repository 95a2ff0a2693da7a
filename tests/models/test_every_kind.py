"""One table: every kind of positions and attention, in every family, saved and reopened by the code in its folder.

What is asked of each: padding on the left changes nothing, cached steps and generate() are the full forward, eager,
sdpa and flex agree or refuse in one sentence. `test_positions.py` and `test_linear_models.py` hold the same kinds
against the references.
"""

from __future__ import annotations

import pytest
import torch
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from suzoo.models._linear_attention import LINEAR_KINDS
from suzoo.models._position_kinds import POSITIONS
from tests.models.tiny import FAMILIES, tiny, tokens

BESIDE = {
    "window": {"attention_window": 4},
    "sinks": {"attention_window": 3, "attention_sinks": 2},
    "log n": {"log_n": "train", "log_n_base": 4},
    "window, sinks, log n at inference": {
        "attention_window": 4, "attention_sinks": 1, "log_n": "inference", "log_n_base": 3,
    },
}  # fmt: skip
WAYS = {name: {"position_embedding_type": name, "rope_window": 4} for name in POSITIONS}
BOTH = {f"{name}, {beside}": WAYS[name] | fields for name in POSITIONS for beside, fields in BESIDE.items()}
WAYS |= {kind: {"attention_type": kind} for kind in LINEAR_KINDS}
WAYS |= {"random positions": {"position_embedding_type": "rope", "random_positions": "equal_mean"}}
QUICK = (*WAYS, "rope, sinks", "kerple_log, window, sinks, log n at inference")
WAYS |= BOTH
NOT_CAUSAL = {"xpos"}  # kinds that say "for causal models"
FOR_OTHERS = {"efficient"}  # kinds that would let a token of T-TA see itself


def refused(family: str, way: str) -> str | None:
    """What the config says, if the family cannot have the kind."""
    if way.split(",")[0] in NOT_CAUSAL and family != "dialogpt":
        return "for causal models"
    return "which T-TA must not see" if way in FOR_OTHERS and family == "tta" else None


def implementations(model) -> list[str]:
    """Those that the table says compute it; all others refuse."""
    kind, found = POSITIONS[model.config.position_embedding_type], ["eager"]
    for name, is_supported in (("sdpa", kind.sdpa), ("flex_attention", kind.flex)):
        if is_supported or model.config.is_linear:  # linear attention goes through none of them
            found.append(name)
        else:
            with pytest.raises(ValueError, match=f"{name}' does not compute .*; use eager"):
                model.set_attn_implementation(name)
    if not model._supports_flash_attn:
        with pytest.raises(ValueError, match="flash_attention_2' does not compute"):
            model.set_attn_implementation("flash_attention_2")
    return found


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    """The model class of each family from the code in a folder, not from suzoo."""
    found = {}
    for family in FAMILIES:
        folder = tmp_path_factory.mktemp(family)
        model = tiny(family, position_embedding_type="nezha")
        model.save_pretrained(folder)
        (name,) = (entry for auto, entry in model.config.auto_map.items() if auto.startswith("AutoModelFor"))
        found[family] = get_class_from_dynamic_module(name, folder)
        assert found[family].__module__.startswith("transformers_modules.")
    return found


@torch.no_grad()
@pytest.mark.parametrize("way", [pytest.param(way, marks=[] if way in QUICK else pytest.mark.slow) for way in WAYS])
@pytest.mark.parametrize("family", FAMILIES)
def test_saved_reopened_by_its_own_code_padded_cached_and_by_every_implementation(family, way, classes, tmp_path):
    if sentence := refused(family, way):
        with pytest.raises(ValueError, match=sentence):
            tiny(family, **WAYS[way])
        return
    tiny(family, eos_token_id=None, num_hidden_layers=2, **WAYS[way]).save_pretrained(tmp_path)
    model = classes[family].from_pretrained(tmp_path)
    assert model.dtype == torch.float64
    ids, short = tokens(2, 9), 3
    mask = torch.tensor([[1] * 9, [0] * short + [1] * (9 - short)])
    types = (torch.arange(9) >= 5).long().expand(2, -1) if family == "unilm" else torch.zeros_like(ids)
    inputs = {"attention_mask": mask, "token_type_ids": types}
    full = model(ids, **inputs).logits
    alone = model(ids[1:, short:], token_type_ids=types[1:, short:]).logits
    torch.testing.assert_close(full[1:, short:], alone, rtol=0, atol=1e-9)
    if family != "tta":
        cache, steps = None, []
        for start, end in ((0, 5), (5, 6), (6, 9)):
            part = {"attention_mask": mask[:, :end], "token_type_ids": types[:, start:end]}
            output = model(ids[:, start:end], **part, past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            steps.append(output.logits)
        torch.testing.assert_close(torch.cat(steps, 1)[mask.bool()], full[mask.bool()], rtol=0, atol=1e-9)
        options = {"attention_mask": mask, "max_new_tokens": 3, "pad_token_id": 0, "do_sample": False}
        said = model.generate(ids, **options)
        assert torch.equal(model.generate(ids, **options, use_cache=False), said)
    for implementation in implementations(model):
        model.set_attn_implementation(implementation)
        with torch.compiler.set_stance("force_eager"):  # flex without its compiler: the same scores, in seconds
            found = model(ids, **inputs).logits
        torch.testing.assert_close(found[mask.bool()], full[mask.bool()], rtol=0, atol=1e-6)
