"""DialoGPT: equality with stock BERT as decoder, caches, speakers in the token types, and the door it saves through."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, BertLMHeadModel, CompileConfig, DynamicCache, StaticCache

from suzoo.models import DialoGPTConfig, DialoGPTForCausalLM
from tests.models.tiny import NEVER, POSITIONS, SIZES, tiny, tokens

LAYOUTS = ("blog", "dialogpt")


def test_saves_a_stock_folder_where_stock_computes_the_same(tmp_path):
    model = tiny("dialogpt", double=False, layout="cdial")
    model.generation_config.update(max_new_tokens=7, do_sample=False, pad_token_id=0)
    model.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.py"))
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_type"] == "bert" and config["architectures"] == ["BertLMHeadModel"] and config["is_decoder"]
    stock = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert type(stock) is BertLMHeadModel and stock.config.layout == "cdial"
    ids = tokens(2, 9)
    mask = torch.tensor([[1] * 9, [0] * 4 + [1] * 5])
    options = {"attention_mask": mask, "eos_token_id": None}
    ours, theirs = model.generate(ids, **options), stock.generate(ids, **options)
    assert torch.equal(ours, theirs) and ours.shape == (2, 16)
    torch.testing.assert_close(model(ids).logits, stock(ids).logits, rtol=0, atol=1e-5)
    back = DialoGPTForCausalLM.from_pretrained(tmp_path)
    assert back.config.layout == "cdial" and back.config.eos_token_id == 2
    # a state dict given by hand, as a distributed trainer does
    zeros = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
    model.save_pretrained(tmp_path, state_dict=zeros)
    assert all((p == 0).all() for p in DialoGPTForCausalLM.from_pretrained(tmp_path).parameters())


@pytest.mark.parametrize(
    "options", [{"layout": "blog"}, {"position_embedding_type": "rope"}, {"norm_first": True}], ids=str
)
def test_saves_its_code_where_stock_would_differ(options, tmp_path, caplog):
    model = tiny("dialogpt", double=False, **options)
    model.save_pretrained(tmp_path)
    assert "trust_remote_code=True" in caplog.text
    assert (tmp_path / "modeling_dialogpt.py").exists() and (tmp_path / "_masks.py").exists()
    config = json.loads((tmp_path / "config.json").read_text())
    assert set(config["auto_map"]) == {"AutoConfig", "AutoModel", "AutoModelForCausalLM"}
    assert isinstance(AutoModelForCausalLM.from_pretrained(tmp_path), DialoGPTForCausalLM)


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("cache_class", [DynamicCache, StaticCache])
@pytest.mark.parametrize(("double", "tolerance"), [(True, 1e-10), (False, 1e-5)])
def test_cached_steps_equal_the_full_forward(positions, cache_class, double, tolerance):
    model = tiny("dialogpt", position_embedding_type=positions, double=double, initializer_range=0.1)
    ids, types = tokens(2, 10), torch.randint(0, 2, (2, 10), generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1] * 10, [0] * 2 + [1] * 8])
    full = model(ids, attention_mask=mask, token_type_ids=types, use_cache=False).logits
    cache = cache_class(config=model.config, **({"max_cache_len": 12} if cache_class is StaticCache else {}))
    steps = [
        model(
            ids[:, start:end],
            attention_mask=mask[:, :end],
            token_type_ids=types[:, start:end],
            past_key_values=cache,
            use_cache=True,
        ).logits
        for start, end in ((0, 4), (4, 5), (5, 9), (9, 10))
    ]
    assert (torch.cat(steps, 1) - full).abs()[mask.bool()].max() < tolerance


def test_dropping_the_oldest_cache_entries_is_not_exact():
    """Why a chat recomputes when its budget is full: deeper states have seen what was dropped (but for one layer)."""
    for num_layers, exact in ((3, False), (1, True)):
        model = tiny("dialogpt", position_embedding_type="nezha", num_hidden_layers=num_layers)
        ids = tokens(1, 8)
        cache = model(ids[:, :7], use_cache=True).past_key_values
        for layer in cache.layers:
            layer.keys, layer.values = layer.keys[:, :, 3:], layer.values[:, :, 3:]
        shortened = model(ids[:, 7:], past_key_values=cache).logits[0, -1]
        difference = (shortened - model(ids[:, 3:]).logits[0, -1]).abs().max()
        assert (difference < 1e-10) if exact else (difference > 1e-3)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("positions", POSITIONS)
def test_every_way_to_generate_equals_the_uncached_forward(layout, positions):
    model = tiny("dialogpt", layout=layout, position_embedding_type=positions)
    rows = [torch.tensor([1, 5, 6, 2]), torch.tensor([1, 7, 2, 8, 9, 10, 2]), torch.tensor([1, 11, 12])]

    def by_hand(row):
        ids = row.tolist()
        for _ in range(7):
            types = [sum(token == 2 for token in ids[:place]) % 2 for place in range(len(ids))]
            types = torch.tensor([types if layout == "blog" else [0] * len(ids)])
            ids.append(int(model(torch.tensor([ids]), token_type_ids=types, use_cache=False).logits[0, -1].argmax()))
        return ids[len(row) :]

    expected = [by_hand(row) for row in rows]
    options = {"max_new_tokens": 7, "eos_token_id": None, "pad_token_id": 0}
    batch, mask = torch.zeros(2, 3, 7, dtype=torch.long), torch.zeros(2, 3, 7, dtype=torch.long)
    for number, row in enumerate(rows):
        batch[0, number, : len(row)], mask[0, number, : len(row)] = row, 1
        batch[1, number, 7 - len(row) :], mask[1, number, 7 - len(row) :] = row, 1
    for side in (0, 1):
        for way in (
            {},
            {"use_cache": False},
            {"cache_implementation": "static", "disable_compile": True},
            {"token_type_ids": torch.zeros_like(batch[0])},
        ):
            out = model.generate(batch[side], attention_mask=mask[side], **options, **way)[:, 7:]
            assert out.tolist() == expected, way
    beams = {"num_beams": 3, **options}
    assert torch.equal(
        model.generate(batch[1], attention_mask=mask[1], **beams),
        model.generate(batch[1], attention_mask=mask[1], use_cache=False, **beams),
    )
    lookup = {**options, "prompt_lookup_num_tokens": 3, "eos_token_id": NEVER}  # before 5.13 it needs one,
    found = [model.generate(row[None], **lookup)[0, len(row) :].tolist() for row in rows]
    assert [tokens[:7] for tokens in found] == expected  # and gives one more
    helper = tiny("dialogpt", layout=layout, position_embedding_type=positions)
    helped = [model.generate(row[None], assistant_model=helper, **options)[0, len(row) :].tolist() for row in rows]
    assert helped == expected


def test_given_speakers_are_kept_through_generation():
    """A window that starts with the other speaker: types are given and continued, not made anew."""
    model = tiny("dialogpt", layout="blog")
    ids, types = torch.tensor([[1, 5, 2, 6, 7, 2]]), torch.tensor([[0, 1, 1, 0, 0, 0]])
    out = model.generate(ids, token_type_ids=types, max_new_tokens=5, eos_token_id=None, output_logits=True,
                         return_dict_in_generate=True)  # fmt: skip
    whole = out.sequences[:, :-1]
    speakers = torch.cat([types, torch.tensor([[1] + [0] * 4])[:, :0]], 1)
    current = 1
    for place in range(6, whole.shape[1]):
        speakers = torch.cat([speakers, torch.tensor([[current]])], 1)
        current = 1 - current if whole[0, place] == 2 else current
    logits = model(whole, token_type_ids=speakers).logits[0, 5:]
    torch.testing.assert_close(torch.cat(out.logits), logits.float(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("layout", ["blog", "dialogpt"])
def test_generating_from_nothing_starts_from_cls(layout):
    model = tiny("dialogpt", layout=layout)
    options = {"max_new_tokens": 5, "eos_token_id": None}
    assert torch.equal(model.generate(**options), model.generate(torch.tensor([[1]]), **options))


def test_blog_speakers_default_to_the_separators():
    model = tiny("dialogpt", layout="blog")
    ids = torch.tensor([[1, 5, 2, 6, 2, 7]])
    types = torch.tensor([[0, 0, 0, 1, 1, 0]])
    assert torch.equal(model(ids).logits, model(ids, token_type_ids=types).logits)
    assert not torch.allclose(model(ids).logits, model(ids, token_type_ids=torch.zeros_like(ids)).logits)
    cache = model(ids, use_cache=True).past_key_values
    with pytest.raises(ValueError, match="whose turn"):
        model(ids[:, :1], past_key_values=cache)
    for method in (model, model.generate):
        with pytest.raises(ValueError, match="whose turn"):
            method(inputs_embeds=model.get_input_embeddings()(ids))


def test_config_and_limits():
    assert DialoGPTConfig().is_stock and not DialoGPTConfig(layout="blog").is_stock
    with pytest.raises(ValueError, match="layout"):
        DialoGPTConfig(layout="su")
    with pytest.raises(ValueError, match="eos_token_id"):
        _ = DialoGPTConfig(eos_token_id=None).turn_end_id
    with pytest.raises(ValueError, match="do not fit in 64"):
        tiny("dialogpt").generate(tokens(1, 60), max_new_tokens=20)
    assert DialoGPTForCausalLM(DialoGPTConfig(**SIZES))._supports_flash_attn


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_compiled_static_cache_generates_the_same(layout):
    model = tiny("dialogpt", layout=layout, double=False)
    prompt = torch.tensor([[1, 5, 6, 2], [0, 1, 7, 2]])
    options = {"attention_mask": (prompt != 0).long(), "max_new_tokens": 8, "eos_token_id": None, "pad_token_id": 0}
    compile_config = CompileConfig(fullgraph=True, dynamic=False, mode="default")
    compile_config._compile_all_devices = True  # transformers compiles on accelerators only, but for its own tests
    expected = model.generate(prompt, **options)
    out = model.generate(prompt, cache_implementation="static", compile_config=compile_config, **options)
    assert torch.equal(out, expected)
    assert model._compiled_call is not None
