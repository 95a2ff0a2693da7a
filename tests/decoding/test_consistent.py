"""Consistent top-k and nucleus sampling, and the report on decoding that does not end."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, TopKLogitsWarper, TopPLogitsWarper

from suzoo.decoding import (
    ConsistentTopKLogitsWarper,
    ConsistentTopPLogitsWarper,
    SelfTerminatingHead,
    nontermination_report,
)
from suzoo.decoding.nontermination import log_eos_bound, repeated_share
from tests.decoding.test_self_terminating import EOS, gpt2, without_end
from tests.models.tiny import tiny, tiny_tokenizer, tokens


def consistent_reference(log_probs: torch.Tensor, eos: int, k: int | None = None, p: float | None = None):
    """One distribution (V,): sort, keep, keep the end, renormalise."""
    order = log_probs.argsort(descending=True).tolist()
    kept, mass = {eos}, 0.0
    for rank, token in enumerate(order):
        if (k is not None and rank >= k) or (p is not None and mass >= p):
            break
        kept.add(token)
        mass += float(log_probs[token].exp())
    probs = torch.tensor([float(q.exp()) if token in kept else 0.0 for token, q in enumerate(log_probs)])
    return probs.double() / probs.sum()


@pytest.mark.parametrize("eos", [0, 6, 11])
def test_candidates_are_those_of_the_reference(eos):
    logits = 3 * torch.randn(50, 12, dtype=torch.float64)
    for options in ({"k": 1}, {"k": 3}, {"p": 0.5}, {"p": 0.9}):
        k, p = options.get("k"), options.get("p")
        warper = ConsistentTopKLogitsWarper(k, eos) if k else ConsistentTopPLogitsWarper(p, eos)
        found = warper(None, logits).softmax(-1)
        expected = torch.stack([consistent_reference(row.log_softmax(-1), eos, k, p) for row in logits])
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
        assert (found[:, eos] >= logits.softmax(-1)[:, eos] - 1e-12).all()
        assert ((found > 0).sum(-1) <= (k + 1 if k else 12)).all()
    for warper in (ConsistentTopKLogitsWarper(12, eos), ConsistentTopPLogitsWarper(1.0, eos)):
        assert torch.equal(warper(None, logits), logits)  # all candidates: plain sampling


def test_several_ends_bf16_and_a_forbidden_end():
    logits = torch.randn(4, 12).bfloat16()
    found = ConsistentTopKLogitsWarper(2, [3, 7])(None, logits)
    assert found.dtype == torch.bfloat16 and torch.equal(found[:, [3, 7]], logits[:, [3, 7]])
    logits[:, 3] = -torch.inf  # by min_new_tokens
    assert ConsistentTopKLogitsWarper(2, 3)(None, logits)[:, 3].isneginf().all()
    for bad in (lambda: ConsistentTopKLogitsWarper(0, 3), lambda: ConsistentTopPLogitsWarper(1.5, 3)):
        with pytest.raises(ValueError, match="top_"):
            bad()
    with pytest.raises(ValueError, match="no token of a vocabulary of 12"):
        ConsistentTopKLogitsWarper(2, 12)(None, logits)
    with pytest.raises(ValueError, match="eos_token_id is empty"):
        ConsistentTopKLogitsWarper(2, [])


def test_consistent_sampling_ends_within_the_bound_where_top_k_never_does():
    """p(end) is about 1/50 in every step and never among the two likeliest of a model that always says the same."""
    model = gpt2()
    output = model.get_output_embeddings()
    output.weight = torch.nn.Parameter(torch.zeros_like(output.weight))
    output.bias = torch.nn.Parameter(torch.zeros(41, dtype=torch.float64))
    output.bias.data[[7, 8]] = 1.0
    stop = float(output.bias.softmax(-1)[EOS])
    prompts = [[5, 6, 7], [8], [9, 10]] * 10
    options = {"max_new_tokens": 150, "do_sample": True, "batch_size": 30}
    stuck = nontermination_report(model, prompts, **options, top_k=2)
    assert stuck.rate == 1.0 and stuck.mean_length == 150 and stuck.repetition > 0.5
    for warper in (ConsistentTopKLogitsWarper(2, EOS), ConsistentTopPLogitsWarper(0.2, EOS)):
        report = nontermination_report(model, prompts, **options, top_k=0, logits_processor=[warper])
        assert report.rate <= 0.2 and (1 - stop) ** 150 < 0.1  # the share that is longer, by the bound
        assert report.repetition < stuck.repetition
        assert report.min_eos_probability == pytest.approx(stop)
    # the weights say it, too: nothing depends on the state
    assert math.exp(log_eos_bound(model, EOS)) == pytest.approx(stop)
    assert stuck.log_eos_bound == log_eos_bound(model, EOS)


def llama():
    sizes = {"vocab_size": 41, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    torch.manual_seed(0)
    config = LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2, initializer_range=0.3)
    return LlamaForCausalLM(config).double().eval()


@pytest.mark.parametrize("make", [gpt2, llama, lambda: tiny("dialogpt"), lambda: tiny("unilm")])
def test_the_bound_holds_and_is_reached(make):
    model = make()
    bound = log_eos_bound(model, EOS)
    found = model(tokens(20, 30)).logits.log_softmax(-1)[..., EOS].min()
    assert bound < float(found)
    # the worst hidden state that a norm can give, for the strongest rival alone, is not much above the bound
    weight = model.get_output_embeddings().weight
    assert bound > -60 * float(weight.detach().norm(dim=-1).max()) * math.sqrt(32)


def test_no_norm_no_bound():
    model = gpt2()
    model.transformer.ln_f = torch.nn.Identity()
    report = nontermination_report(model, [[5, 6]], max_new_tokens=3)
    assert report.log_eos_bound is None and "no bound" in str(report)


def test_report_says_what_was_written():
    model = tiny("dialogpt", double=False, layout="cdial")
    tokenizer = tiny_tokenizer()
    report = nontermination_report(
        model, ["今天天气", "好", "我你他是"], tokenizer=tokenizer, max_new_tokens=20, batch_size=2
    )
    alone = []
    for text in ("今天天气", "好", "我你他是"):
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        alone.append(model.generate(ids, max_new_tokens=20)[0, ids.shape[1] :].tolist())
    assert report.continuations == alone
    unended = [row for row in alone if row[-1] != EOS]
    assert report.rate == len(unended) / 3 and report.num_prompts == 3
    assert f"{report.rate:.1%} did not end" in str(report) and "the article's bound" in str(report)
    assert repeated_share([1, 2, 3, 4, 1, 2, 3, 4]) == pytest.approx(1 / 5)
    assert repeated_share([1, 2, 3]) == 0.0
    SelfTerminatingHead(EOS, 0.05).write(model.config)
    ended = nontermination_report(model, ["今天天气"], tokenizer=tokenizer, max_new_tokens=30)
    assert ended.rate == 0 and f"within {ended.head.max_greedy_steps} tokens" in str(ended)


def test_report_on_a_stock_model_uses_the_rule_of_its_configuration():
    model = without_end(gpt2())
    assert nontermination_report(model, [[5, 6]], max_new_tokens=60, num_beams=2).rate == 1
    SelfTerminatingHead(EOS, 0.05, monotonic=False).write(model.config)
    report = nontermination_report(model, [[5, 6], [7]], max_new_tokens=60, num_beams=2)
    assert report.rate == 0 and report.min_eos_probability == pytest.approx(0.05, abs=1e-3)


def test_report_refuses_what_it_cannot_read():
    model = gpt2()
    for prompts, message in (
        ([], "with one at least"),
        ("text", "list of texts"),
        ([[]], "prompt 0"),
        (["a"], "pass tok"),
    ):
        with pytest.raises(ValueError, match=message):
            nontermination_report(model, prompts)
    model.generation_config.eos_token_id = None
    with pytest.raises(ValueError, match="which token ends"):
        nontermination_report(model, [[5]])


def test_plain_warpers_are_what_is_inside():
    logits = torch.randn(6, 12)
    for consistent, plain in (
        (ConsistentTopKLogitsWarper(4, 3), TopKLogitsWarper(4)),
        (ConsistentTopPLogitsWarper(0.7, 3), TopPLogitsWarper(0.7)),
    ):
        others = [token for token in range(12) if token != 3]
        assert torch.equal(consistent(None, logits)[:, others], plain(None, logits)[:, others])
