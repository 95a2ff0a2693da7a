"""Linear attention in DialoGPT, UniLM and T-TA: against the reference, with padding, its own cache, chat, saved."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, DynamicCache, StaticCache

from suzoo.decoding import ChatSession, MMIReranker
from suzoo.models import DialoGPTConfig, TTAConfig, UniLMConfig
from suzoo.models._linear_attention import LINEAR_KINDS, LinearLayer
from tests.models.test_positions import inputs_of
from tests.models.tiny import FAMILIES, tiny, tiny_tokenizer, tokens
from tests.reference import transformer as reference

CASES = [(family, kind) for kind in LINEAR_KINDS for family in ("dialogpt", "unilm")]
OF_OTHERS = [("tta", kind) for kind in LINEAR_KINDS if kind != "efficient"]


@pytest.mark.parametrize(("family", "kind"), [*CASES, *OF_OTHERS])
def test_logits_and_gradients_equal_the_reference(family, kind):
    positions = "none" if kind == "elu1" else "absolute"
    model = tiny(family, num_hidden_layers=2, attention_type=kind, position_embedding_type=positions)
    inputs = inputs_of(family, tokens(1, 9))
    logits = model(**inputs).logits
    state = dict(model.named_parameters())
    ids, types = inputs["input_ids"][0].tolist(), inputs["token_type_ids"][0].tolist()
    expected = reference.logits(state, model.config, ids, types, FAMILIES[family][2])[None]
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-9)
    cotangent = torch.randn(logits.shape, dtype=logits.dtype)
    names = [name for name in state if ".self." in name]
    ours = torch.autograd.grad(logits, [state[name] for name in names], cotangent)
    theirs = torch.autograd.grad(expected, [state[name] for name in names], cotangent)
    for name, mine, right in zip(names, ours, theirs, strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-6, atol=1e-7, msg=name)


@pytest.mark.parametrize(("family", "kind"), CASES)
def test_padding_and_cached_steps(family, kind):
    model = tiny(family, attention_type=kind)
    ids, mask = tokens(3, 11), torch.tensor([[1] * 11, [0] * 3 + [1] * 8, [1] * 8 + [0] * 3])
    types = torch.zeros_like(ids)
    if family == "unilm":
        types[:, 6:] = 1
    full = model(ids, attention_mask=mask, token_type_ids=types, use_cache=False).logits
    for row, real in ((0, slice(0, 11)), (1, slice(3, 11)), (2, slice(0, 8))):
        alone = model(ids[row : row + 1, real], token_type_ids=types[row : row + 1, real]).logits
        torch.testing.assert_close(full[row : row + 1, real], alone, rtol=0, atol=1e-9)
    cache, steps = DynamicCache(config=model.config), []
    for start, end in ((0, 6), (6, 7), (7, 10), (10, 11)):
        part = {"attention_mask": mask[:, :end], "token_type_ids": types[:, start:end], "past_key_values": cache}
        steps.append(model(ids[:, start:end], **part, use_cache=True).logits)
        assert cache.get_seq_length() == end
    assert (torch.cat(steps, 1) - full).abs()[mask.bool()].max() < 1e-9
    assert all(isinstance(layer, LinearLayer) for layer in cache.layers) and len(cache.layers) == 3
    size = sum(part.numel() for part in cache.layers[0].state if part is not None)
    assert size <= 3 * 4 * 73 * 9 + 200  # of three rows and four heads, however long the text


@pytest.mark.parametrize(("family", "kind"), [*CASES[:2], *CASES[-2:]])
def test_generating_is_the_same_with_and_without_cache(family, kind):
    model = tiny(family, eos_token_id=None, attention_type=kind)
    prompts = [tokens(1, 7, seed=3), tokens(1, 4, seed=4)]
    ids = torch.cat([prompts[0], torch.nn.functional.pad(prompts[1], (3, 0))])
    batch = {"input_ids": ids, "attention_mask": torch.tensor([[1] * 7, [0] * 3 + [1] * 4])}
    options = {"max_new_tokens": 6, "pad_token_id": 0, "do_sample": False}
    expected = model.generate(**batch, **options)
    assert torch.equal(model.generate(**batch, **options, use_cache=False), expected)
    assert torch.equal(model.generate(prompts[1], **options)[0, 4:], expected[1, 7:])
    beams = model.generate(**batch, **options, num_beams=3, num_return_sequences=2)
    uncached = model.generate(**batch, **options, num_beams=3, num_return_sequences=2, use_cache=False)
    assert torch.equal(uncached, beams)
    with pytest.raises(ValueError, match="a cache of its own"):
        model.generate(**batch, **options, cache_implementation="static", disable_compile=True)


@pytest.mark.parametrize(("family", "kind"), OF_OTHERS)
def test_not_a_bit_of_a_token_reaches_its_own_row(family, kind):
    """In float32, over several chunks, where a difference of sums would leave its rounding error."""
    model = tiny(family, double=False, attention_type=kind, max_position_embeddings=160)
    ids, other = tokens(1, 150), tokens(1, 150, seed=2)
    with torch.no_grad():
        for place in (0, 63, 64, 100, 149):
            changed = ids.clone()
            changed[0, place] = other[0, place] if other[0, place] != ids[0, place] else 4
            before, after = model(ids).logits[0], model(changed).logits[0]
            assert torch.equal(before[place], after[place]) and not torch.equal(before[place - 1], after[place - 1])
    embeddings = model.bert.embeddings.word_embeddings(ids).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(model(inputs_embeds=embeddings).logits[0, 70].sum(), embeddings)
    assert not gradient[0, 70].any() and gradient[0, 69].any() and gradient[0, 149].any()


@pytest.mark.parametrize(("family", "kind"), OF_OTHERS)
def test_a_masked_model_with_padding_alone_saved_and_exported(family, kind, tmp_path):
    model = tiny(family, attention_type=kind)
    ids, mask = tokens(3, 9), torch.tensor([[1] * 9, [0] * 3 + [1] * 6, [1] * 1 + [0] * 8])
    full = model(ids, attention_mask=mask).logits
    for row, real in ((0, slice(0, 9)), (1, slice(3, 9)), (2, slice(0, 1))):
        alone = model(ids[row : row + 1, real]).logits
        torch.testing.assert_close(full[row : row + 1, real], alone, rtol=0, atol=1e-9)
    model = model.float()
    model.save_pretrained(tmp_path)
    assert torch.equal(AutoModelForMaskedLM.from_pretrained(tmp_path)(ids).logits, model(ids).logits)
    exported = torch.export.export(model, (), {"input_ids": ids, "attention_mask": mask}, strict=False)
    found = exported.module()(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(found, model(ids, attention_mask=mask).logits, rtol=0, atol=1e-5)
    model.train()
    model.gradient_checkpointing_enable()
    model(ids, attention_mask=mask, labels=ids).loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    assert model.bfloat16()(ids).logits.isfinite().all()


def test_a_chat_reads_anew_what_it_cannot_take_back():
    tokenizer, talk = tiny_tokenizer(), ["今天天气很好", "我你他", "吃饭了吗", "是", "在这上大", "今天", "来和国去"]
    for reranked in (False, True):
        sessions = []
        for reuse_cache in (True, False):
            model = tiny("dialogpt", attention_type="elu1", layout="blog")
            options = {"max_new_tokens": 5, "max_tokens": 40, "do_sample": reranked, "reuse_cache": reuse_cache}
            if reranked:
                options |= {"reranker": MMIReranker(tiny("dialogpt", layout="blog", seed=2), tokenizer)}
                options |= {"num_candidates": 4, "top_k": 20}
            sessions.append(ChatSession(model, tokenizer, **options))
        for number, text in enumerate(talk):
            said = []
            for session in sessions:
                torch.manual_seed(number)
                said.append(session.reply(text))
            assert said[0] == said[1]


def test_saved_trained_and_exported(tmp_path):
    model = tiny("dialogpt", double=False, attention_type="taylor1", position_embedding_type="none")
    assert not model.config.is_stock and not model._supports_flash_attn
    ids = tokens(2, 8)
    model.save_pretrained(tmp_path)
    assert list(tmp_path.glob("_linear_attention.py"))
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(again(ids).logits, model(ids).logits)
    model.train()
    model.gradient_checkpointing_enable()
    model(ids, labels=ids).loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)
    model.eval()
    exported = torch.export.export(model, (), {"input_ids": ids, "use_cache": False}, strict=False)
    other = tokens(2, 8, seed=5)
    found = exported.module()(input_ids=other, use_cache=False).logits
    torch.testing.assert_close(found, model(other).logits, rtol=0, atol=1e-4)
    low = model.bfloat16()(ids).logits
    assert low.dtype == torch.bfloat16 and low.isfinite().all()


def test_what_does_not_go_together():
    with pytest.raises(ValueError, match=r"efficient attention .* which T-TA must not see"):
        TTAConfig(attention_type="efficient")
    with pytest.raises(ValueError, match="pad the texts of a batch"):
        tiny("tta", attention_type="elu1")(tokens(1, 4), position_ids=torch.tensor([[0, 1, 0, 1]]))
    with pytest.raises(ValueError, match="attention_type is softmax or one of"):
        UniLMConfig(attention_type="cosine")
    for options in ({"attention_window": 4}, {"log_n": "train"}, {"position_embedding_type": "rope"}):
        with pytest.raises(ValueError, match="linear attention has no scores"):
            DialoGPTConfig(attention_type="elu1", **options)
    model = tiny("dialogpt", attention_type="elu1")
    with pytest.raises(ValueError, match="two dimensions"):
        model(tokens(1, 4), attention_mask=torch.ones(1, 1, 4, 4))
    softmax = tiny("dialogpt")
    filled = softmax(tokens(1, 4), use_cache=True).past_key_values
    with pytest.raises(ValueError, match="filled by another kind"):
        model(tokens(1, 2), past_key_values=filled)
    with pytest.raises(ValueError, match="a cache of its own"):
        model(tokens(1, 2), past_key_values=StaticCache(config=model.config, max_cache_len=8), use_cache=True)
