"""Every kind of positions, window and log n in every model: against the reference, with padding, cache and beams."""

from __future__ import annotations

from typing import get_args

from recipes.language_model import Positions

import pytest
import torch
from transformers import DynamicCache, StaticCache

from suzoo.models._position_kinds import POSITIONS
from tests.models.tiny import FAMILIES, source_target, tiny, tokens
from tests.reference import transformer as reference

# window, sinks and log n stand beside any positions; the small numbers matter within eleven tokens
WAYS = {
    "none": {"position_embedding_type": "none"},
    "xpos": {"position_embedding_type": "xpos"},
    "rerope": {"position_embedding_type": "rerope", "rope_window": 4},
    "leaky_rerope": {"position_embedding_type": "leaky_rerope", "rope_window": 3, "rope_slowdown": 2.5},
    "alibi": {"position_embedding_type": "alibi"},
    "kerple_log": {"position_embedding_type": "kerple_log"},
    "kerple_power": {"position_embedding_type": "kerple_power"},
    "sandwich": {"position_embedding_type": "sandwich"},
    "window": {"attention_window": 3},
    "window and sinks": {"attention_window": 3, "attention_sinks": 2, "position_embedding_type": "rope"},
    "log n": {"log_n": "train", "log_n_base": 4},
    "log n at inference": {"log_n": "inference", "log_n_base": 4, "position_embedding_type": "rope"},
    "all at once": {
        "position_embedding_type": "kerple_log", "attention_window": 4, "attention_sinks": 1, "log_n": "train",
        "log_n_base": 3,
    },
}  # fmt: skip
EVERY = [(family, way) for way in WAYS for family in FAMILIES if way != "xpos" or family == "dialogpt"]
CAUSAL = [case for case in EVERY if case[0] != "tta"]
# one kind of each mechanism: turned keys, bias of the scores, masks and scales
FEW = [case for case in EVERY if case[1] in ("xpos", "leaky_rerope", "window and sinks", "all at once")]


def inputs_of(family: str, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    batch, length = ids.shape
    types = source_target(batch, 5, length - 5) if family == "unilm" else torch.zeros_like(ids)
    return {"input_ids": ids, "token_type_ids": types}


@pytest.mark.parametrize(("family", "way"), EVERY)
def test_logits_and_gradients_equal_the_reference(family, way):
    model = tiny(family, num_hidden_layers=2, **WAYS[way])
    inputs = inputs_of(family, tokens(1, 9))
    logits = model(**inputs).logits
    state = dict(model.named_parameters())
    ids, types = inputs["input_ids"][0].tolist(), inputs["token_type_ids"][0].tolist()
    expected = reference.logits(state, model.config, ids, types, FAMILIES[family][2])[None]
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-10)
    cotangent = torch.randn(logits.shape, dtype=logits.dtype)
    # what the kind touches: queries, keys and what it learns
    names = [name for name in state if ".self." in name and "value" not in name]
    ours = torch.autograd.grad(logits, [state[name] for name in names], cotangent)
    theirs = torch.autograd.grad(expected, [state[name] for name in names], cotangent)
    for name, mine, right in zip(names, ours, theirs, strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-7, atol=1e-8, msg=name)
        if "r1" in name or "r2" in name:
            assert mine.abs().max() > 0


@pytest.mark.parametrize(("family", "way"), EVERY)
def test_padding_and_implementations_change_nothing(family, way):
    model = tiny(family, **WAYS[way])
    ids = tokens(3, 11)
    mask = torch.tensor([[1] * 11, [0] * 3 + [1] * 8, [1] * 8 + [0] * 3])
    types = torch.zeros_like(ids)
    if family == "unilm":
        types[:, 6:] = 1
    inputs = {"attention_mask": mask, "token_type_ids": types}
    together = model(ids, **inputs).logits
    for row, real in ((0, slice(0, 11)), (1, slice(3, 11)), (2, slice(0, 8))):
        alone = model(ids[row : row + 1, real], token_type_ids=types[row : row + 1, real]).logits
        torch.testing.assert_close(together[row : row + 1, real], alone, rtol=0, atol=1e-10)
    assert model.config._attn_implementation == ("sdpa" if model._supports_sdpa else "eager")
    model.set_attn_implementation("eager")
    torch.testing.assert_close(model(ids, **inputs).logits[mask.bool()], together[mask.bool()], rtol=0, atol=1e-10)


@pytest.mark.parametrize(("family", "way"), CAUSAL)
@pytest.mark.parametrize("cache_class", [DynamicCache, StaticCache])
def test_cached_steps_equal_the_full_forward(family, way, cache_class):
    model = tiny(family, **WAYS[way])
    ids, mask = tokens(2, 11), torch.tensor([[1] * 11, [0] * 2 + [1] * 9])
    types = torch.zeros_like(ids)
    if family == "unilm":
        types[:, 6:] = 1
    full = model(ids, attention_mask=mask, token_type_ids=types, use_cache=False).logits
    cache = cache_class(config=model.config, **({"max_cache_len": 14} if cache_class is StaticCache else {}))
    steps = []
    for start, end in ((0, 6), (6, 7), (7, 10), (10, 11)):
        part = {"attention_mask": mask[:, :end], "token_type_ids": types[:, start:end], "past_key_values": cache}
        steps.append(model(ids[:, start:end], **part, use_cache=True).logits)
    assert (torch.cat(steps, 1) - full).abs()[mask.bool()].max() < 1e-10


@pytest.mark.parametrize(("family", "way"), [case for case in FEW if case[0] != "tta"])
def test_generating_is_the_same_with_any_cache_and_padding(family, way):
    model = tiny(family, eos_token_id=None, **WAYS[way])
    prompts = [tokens(1, 7, seed=3), tokens(1, 4, seed=4)]
    ids = torch.cat([prompts[0], torch.nn.functional.pad(prompts[1], (3, 0))])
    batch = {"input_ids": ids, "attention_mask": torch.tensor([[1] * 7, [0] * 3 + [1] * 4])}
    options = {"max_new_tokens": 6, "pad_token_id": 0, "do_sample": False}
    expected = model.generate(**batch, **options)
    for other in ({"use_cache": False}, {"cache_implementation": "static", "disable_compile": True}):
        assert torch.equal(model.generate(**batch, **options, **other), expected), other
    alone = model.generate(prompts[1], **options)
    assert torch.equal(alone[0, 4:], expected[1, 7:])
    beams = model.generate(**batch, **options, num_beams=3)
    assert torch.equal(model.generate(**batch, **options, num_beams=3, use_cache=False), beams)


@pytest.mark.parametrize("way", [way for family, way in EVERY if family == "tta"])
def test_t_ta_never_sees_the_token_it_predicts(way):
    for length in (6, 1):
        for implementation in ("sdpa", "eager"):
            model = tiny("tta", double=False, **WAYS[way])
            if implementation == "sdpa" and not model._supports_sdpa:
                continue  # transformers before 5.17
            model.set_attn_implementation(implementation)
            ids = tokens(1, length)
            other = ids.clone()
            other[0, length // 2] = 4 if ids[0, length // 2] != 4 else 5
            first, second = model(ids).logits, model(other).logits
            assert torch.equal(first[0, length // 2], second[0, length // 2])
            assert first.isfinite().all()


@pytest.mark.parametrize(("family", "way"), FEW)
def test_bf16_and_autocast_stay_near(family, way):
    inputs = inputs_of(family, tokens(2, 9))
    model = tiny(family, double=False, initializer_range=0.05, **WAYS[way])
    exact = model(**inputs).logits
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model(**inputs).logits
    for found in (mixed, model.bfloat16()(**inputs).logits):
        assert found.isfinite().all() and (found.float() - exact).abs().max() < 0.15


@pytest.mark.parametrize("way", ["xpos", "rerope", "all at once"])
def test_export_keeps_working(way):
    model = tiny("dialogpt", double=False, **WAYS[way])
    exported = torch.export.export(model, (), {"input_ids": tokens(2, 8), "use_cache": False}, strict=False)
    other = tokens(2, 8, seed=5)
    found = exported.module()(input_ids=other, use_cache=False).logits
    torch.testing.assert_close(found, model(other).logits, rtol=0, atol=1e-4)


def test_windows_are_windows():
    """A deep window reaches (w - 1) layers + 1 tokens; sinks stay visible, behind padding, too."""
    model = tiny("dialogpt", position_embedding_type="rope", attention_window=3, num_hidden_layers=2)
    ids = tokens(1, 12)
    base = model(ids).logits[0, -1]
    for place, is_seen in ((6, False), (7, True), (0, False)):
        other = ids.clone()
        other[0, place] = 4 if ids[0, place] != 4 else 5
        assert torch.equal(model(other).logits[0, -1], base) != is_seen
    model = tiny("dialogpt", attention_window=2, attention_sinks=1, num_hidden_layers=1)
    model.set_attn_implementation("eager")
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1]])
    weights = model(tokens(1, 7), attention_mask=mask, output_attentions=True).attentions[0][0, 0]
    assert [row.nonzero()[:, 0].tolist() for row in weights[2:]] == [[2], [2, 3], [2, 3, 4], [2, 4, 5], [2, 5, 6]]


def test_a_window_as_wide_as_the_text_is_none():
    ids = tokens(2, 9)
    for family in FAMILIES:
        options = {"absolute": "attention_window", "rerope": "rope_window", "leaky_rerope": "rope_window"}
        for kind, option in options.items():
            wide = tiny(family, position_embedding_type=kind, **{option: 9})
            plain = tiny(family, position_embedding_type="absolute" if kind == "absolute" else "rope")
            torch.testing.assert_close(wide(ids).logits, plain(ids).logits, rtol=0, atol=1e-12)


def test_random_positions_are_for_training():
    model = tiny("dialogpt", position_embedding_type="rope", random_positions=500, hidden_dropout_prob=0.0)
    ids = tokens(2, 9)
    plain = tiny("dialogpt", position_embedding_type="rope")
    assert torch.equal(model(ids).logits, plain(ids).logits)
    model.train()
    first, second = model(ids).logits, model(ids).logits
    assert (first - second).abs().max() > 1e-3
    for family in ("unilm", "tta"):
        drawn = tiny(family, random_positions=60, attention_probs_dropout_prob=0.0, hidden_dropout_prob=0.0).train()
        assert (drawn(ids).logits - drawn(ids).logits).abs().max() > 1e-3
    with pytest.raises(ValueError, match="random_positions 100 is more than"):
        tiny("dialogpt", random_positions=100)


@pytest.mark.parametrize(("family", "kind"), [(f, k) for f in FAMILIES for k in POSITIONS if f != "tta" or k != "xpos"])
def test_positions_of_equal_mean_are_fractions_in_training_alone(family, kind):
    fields = {"position_embedding_type": kind, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    if POSITIONS[kind].whole or (kind == "xpos" and family != "dialogpt"):
        with pytest.raises(ValueError, match="whole numbers" if POSITIONS[kind].whole else "for causal models"):
            tiny(family, random_positions="equal_mean", **fields)
        return
    ids, plain = tokens(2, 9), tiny(family, **fields)
    model = tiny(family, random_positions="equal_mean", **fields)
    assert torch.equal(model(ids).logits, plain(ids).logits)
    model.train()
    first, second = model(ids, labels=ids), model(ids).logits
    assert kind == "none" or (first.logits - second).abs().max() > 1e-3
    first.loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)


def test_the_table_is_the_truth():
    tested = {way.get("position_embedding_type", "absolute") for way in WAYS.values()}
    assert set(POSITIONS) == {*tested, "nezha", "rope"} == set(get_args(Positions))
    for name, kind in POSITIONS.items():
        model = tiny("dialogpt", position_embedding_type=name)
        assert (model._supports_flash_attn, model._supports_sdpa, model._supports_flex_attn) == kind[1:4]
        learned = [key for key in model.state_dict() if "r1" in key or "r2" in key]
        assert bool(learned) == kind.learned and len(learned) in (0, 6)
        assert (model.bert.embeddings.position_embeddings is not None) == kind.limited
        sizes = {"hidden_size": 12, "num_attention_heads": 4, "position_embedding_type": name}
        if kind.even_heads:
            with pytest.raises(ValueError, match="even head size"):
                FAMILIES["dialogpt"][0](**sizes)
        else:
            FAMILIES["dialogpt"][0](**sizes)
    assert not tiny("dialogpt", attention_window=4)._supports_flash_attn


def test_configs_refuse_what_cannot_work():
    config_class = FAMILIES["dialogpt"][0]
    for family in ("unilm", "tta"):
        with pytest.raises(ValueError, match="for causal models"):
            FAMILIES[family][0](position_embedding_type="xpos")
    for name, value in {
        "attention_window": 0, "rope_window": 0, "attention_sinks": -1, "log_n_base": 1, "rope_slowdown": 0.0,
        "random_positions": 0, "log_n": "always",
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match=name):
            config_class(**{name: value})
    with pytest.raises(ValueError, match="random_positions is a number or equal_mean"):
        config_class(position_embedding_type="rope", random_positions="equal")
    for options in ({"attention_window": 4}, {"log_n": "train"}, {"position_embedding_type": "none"}):
        assert not config_class(**options).is_stock
    assert config_class(random_positions=100).is_stock  # which is over with the training


@pytest.mark.parametrize(("family", "way"), FEW)
def test_packed_rows_equal_each_document_alone(family, way):
    model = tiny(family, **WAYS[way])
    lengths, ids = (5, 1, 7), tokens(1, 13)
    types = torch.zeros_like(ids)
    if family == "unilm":
        types[0, [3, 4, 9, 10, 11, 12]] = 1
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    packed = model(ids, token_type_ids=types, position_ids=positions, use_cache=False).logits
    start = 0
    for length in lengths:
        part = slice(start, start + length)
        alone = model(ids[:, part], token_type_ids=types[:, part], use_cache=False).logits
        torch.testing.assert_close(packed[:, part], alone, rtol=0, atol=1e-10)
        start += length


def test_linear_attention_refuses_packed_rows():
    positions = torch.tensor([[0, 1, 2, 0, 1, 2]])
    for family in ("dialogpt", "unilm"):
        with pytest.raises(ValueError, match="pad the texts"):
            tiny(family, attention_type="elu1")(tokens(1, 6), position_ids=positions, use_cache=False)
