"""The cache under its two names, and arguments that nobody knows."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, DynamicCache

import suzoo.models
from suzoo.models import CoSENTCrossEncoder, CoSENTModel
from suzoo.models._oldest import OLDEST
from suzoo.models._versions import CACHE, COMMON_KEYWORDS
from tests.models.tiny import FAMILIES, POSITIONS, SIZES, tiny, tokens

NAMES = ("cache", "past_key_values")
CODE = Path(suzoo.models.__file__).parent


@pytest.mark.parametrize("family", ["dialogpt", "unilm"])
@pytest.mark.parametrize("name", NAMES)
def test_the_cache_has_two_names(family, name):
    model, ids = tiny(family), tokens(2, 8)
    types = {"token_type_ids": torch.zeros_like(ids[:, :5])}
    new_types = {"token_type_ids": torch.full_like(ids[:, 5:], int(family == "unilm"))}
    full = model(ids, token_type_ids=torch.cat([*types.values(), *new_types.values()], 1)).logits[:, 5:]
    for part in (model, model.bert):
        cache = DynamicCache(config=model.config)
        part(ids[:, :5], **types, **{name: cache})
        output = part(ids[:, 5:], **new_types, **{name: cache})
        logits = output.logits if part is model else model.cls(output.last_hidden_state)
        torch.testing.assert_close(logits, full, rtol=0, atol=1e-10)
        assert output[CACHE] is cache
        with pytest.raises(ValueError, match="once"):
            part(ids[:, 5:], cache=cache, past_key_values=cache)


@pytest.mark.parametrize("family", ["dialogpt", "unilm"])
@pytest.mark.parametrize("positions", POSITIONS)
def test_generate_remembers_under_both_names(family, positions):
    """With the cache under a name that nobody reads, a model sees one token and no history."""
    model, prompt = tiny(family, position_embedding_type=positions), tokens(8, 6)
    options = {"eos_token_id": None, "pad_token_id": 0, "do_sample": False}
    uncached = model.generate(prompt, max_new_tokens=9, use_cache=False, **options)
    assert torch.equal(model.generate(prompt, max_new_tokens=9, **options), uncached)
    for name in NAMES:
        cache = DynamicCache(config=model.config)
        first = model.generate(prompt, max_new_tokens=4, **{name: cache}, **options)
        assert cache.get_seq_length() == 9
        assert torch.equal(model.generate(first, max_new_tokens=5, **{name: cache}, **options), uncached)
    with pytest.raises(ValueError, match="once"):
        model.generate(prompt, cache=cache, past_key_values=cache)


def forwards():
    for family in FAMILIES:
        model = tiny(family)
        yield from ((model, {}), (model.bert, {}))
    sizes = {key: value for key, value in SIZES.items() if key != "max_relative_position"}
    for wrapper in (CoSENTModel, CoSENTCrossEncoder):
        model = wrapper(BertConfig(**sizes)).eval()
        yield from ((model, {}), (model, {"lengths": [3, 3]}))


def test_an_argument_that_nobody_knows_is_an_error():
    for model, extra in forwards():
        ids = tokens(6) if extra else tokens(2, 3)
        for unknown in ("cache_of_tomorrow", "atention_mask", "labels_"):
            with pytest.raises(TypeError, match=unknown):
                model(ids, **extra, **{unknown: None})


def test_a_keyword_of_saving_that_nobody_knows_is_an_error(tmp_path):
    for model, _ in forwards():
        if not any(hasattr(model, name) for name in ("cls", "encode", "rank")):
            continue  # the backbones save as transformers does
        with pytest.raises(TypeError, match="with_coed"):
            model.save_pretrained(tmp_path, with_coed=True)
        model.save_pretrained(tmp_path, max_shard_size="5GB", state_dict=model.state_dict())


def test_what_transformers_passes_is_known():
    """Values that change nothing for a whole unpacked batch."""
    ids, lengths = tokens(2, 3), torch.tensor([0, 3, 6])
    kwargs = {
        "num_items_in_batch": torch.tensor(4),
        "output_attentions": False,
        "output_hidden_states": True,
        "use_cache": False,
        "cu_seq_lens_q": lengths,
        "cu_seq_lens_k": lengths,
        "max_length_q": 3,
        "max_length_k": 3,
        "seq_idx": torch.zeros_like(ids),
    }
    assert set(kwargs) == COMMON_KEYWORDS
    for model, extra in forwards():
        flat = {"lengths": [3, 3]} if extra else {}
        plain = model(ids.flatten() if extra else ids, **flat)
        outputs = model(ids.flatten() if extra else ids, **flat, **kwargs)
        assert torch.equal(outputs[0], plain[0])


@pytest.mark.parametrize("family", ["dialogpt", "unilm"])
def test_a_cache_under_gradient_checkpointing_is_refused(family):
    model, ids = tiny(family).train(), tokens(2, 4)
    model.gradient_checkpointing_enable()
    cache = DynamicCache(config=model.config)
    with pytest.raises(ValueError, match="gradient checkpointing"):
        model(ids, past_key_values=cache)
    # without gradients nothing is computed twice
    model = tiny(family, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train()
    model.gradient_checkpointing_enable()
    options = {"max_new_tokens": 5, "eos_token_id": None, "pad_token_id": 0, "do_sample": False}
    assert torch.equal(model.generate(ids, **options), model.eval().generate(ids, **options, use_cache=False))


@pytest.mark.parametrize(
    ("version", "is_refused"),
    [("4.57.6", True), ("5.3.0", True), (f"{OLDEST}.0", False), ("5.24.0.dev0", False), ("6.0", False)],
)
def test_code_on_a_transformers_too_old_says_so_in_one_sentence(version, is_refused, monkeypatch):
    monkeypatch.setattr(sys.modules["transformers"], "__version__", version)  # transformers puts itself there anew
    spec = importlib.util.spec_from_file_location("oldest", CODE / "_oldest.py")
    load = lambda: spec.loader.exec_module(importlib.util.module_from_spec(spec))  # noqa: E731
    if not is_refused:
        load()
        return
    with pytest.raises(
        ImportError, match=rf"^the code of this model needs transformers {OLDEST} or later, and {version} is"
    ):
        load()


def named_in(module: str) -> list[str]:
    """As transformers finds them."""
    return re.findall(r"^\s*from\s+\.(\S+)\s+import", (CODE / f"{module}.py").read_text(), re.MULTILINE)


def all_behind(module: str, found: set[str]) -> set[str]:
    for name in set(named_in(module)) - found:
        all_behind(name, found | {name})
        found |= {name} | all_behind(name, found | {name})
    return found


@pytest.mark.parametrize("name", ["cosent", "cosent_cross_encoder", "dialogpt", "gru", "tta", "unilm"])
def test_the_files_that_a_folder_names_name_all_that_they_need(name):
    """transformers before 5.9 copies no others from a local folder; and what is refused is refused first."""
    for file in [f"modeling_{name}"] + [f"configuration_{name}"] * ("cosent" not in name):
        assert set(named_in(file)) == all_behind(file, set())
    assert named_in(file)[0] == "_oldest"  # of the file that is read first
