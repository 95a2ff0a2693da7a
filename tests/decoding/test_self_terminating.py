"""Self-terminating decoding: the reference step by step, the bounds of the article, and every way to generate."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from suzoo.decoding import SelfTerminatingHead, bert4keras_beam_search
from suzoo.models import DialoGPTForCausalLM
from tests.models.tiny import tiny, tokens
from tests.reference.self_terminating import distributions, end_probabilities

EOS = 2


def gpt2(seed: int = 0, **options) -> GPT2LMHeadModel:
    torch.manual_seed(seed)
    sizes = {"vocab_size": 41, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256, "initializer_range": 0.4}
    return GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=1, eos_token_id=EOS, **options)).double().eval()


def without_end(model, size: float = 40.0):
    """The same model, which never ends a text by itself."""
    output = model.get_output_embeddings()
    output.bias = torch.nn.Parameter(torch.zeros(len(output.weight), dtype=output.weight.dtype))
    output.bias.data[EOS] = -size
    return model


@pytest.mark.parametrize("monotonic", [True, False])
@pytest.mark.parametrize("eos", [0, 5, 11])
def test_log_probs_are_those_of_the_recursion(monotonic, eos):
    logits = 3 * torch.randn(2, 30, 12, dtype=torch.float64)
    is_start = torch.zeros(2, 30, dtype=torch.bool)
    is_start[0, [4, 17]], is_start[1, 0] = True, True
    head = SelfTerminatingHead(eos, 1e-2, monotonic)
    found = head.log_probs(logits, is_start).exp()
    for row, first, last in ((0, 0, 4), (0, 4, 17), (0, 17, 30), (1, 0, 30)):
        expected = distributions(logits[row, first:last], eos, 1e-2, monotonic)
        torch.testing.assert_close(found[row, first:last], expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.sum(-1), torch.ones(2, 30, dtype=torch.float64), rtol=0, atol=1e-12)


def test_the_articles_bounds():
    stop = (2 * torch.randn(400, dtype=torch.float64) - 4).sigmoid()
    logits = torch.stack([stop.log(), torch.log1p(-stop)], -1)[None]
    steps = torch.arange(1, 401, dtype=torch.float64)
    start = torch.zeros(1, 400, dtype=torch.bool)
    for monotonic in (True, False):
        ends = SelfTerminatingHead(0, 1e-2, monotonic).log_probs(logits, start)[0, :, 0].exp()
        torch.testing.assert_close(ends, end_probabilities(stop, 1e-2, monotonic), rtol=0, atol=1e-12)
        assert (ends >= 1 - 0.99**steps - 1e-12).all()
        assert (ends.diff() >= -1e-15).all() == monotonic
    # the closed form, and steps after which greedy search has ended (the article's table)
    closed = -torch.expm1((math.log(0.99) + torch.log1p(-stop)).cumsum(0))
    torch.testing.assert_close(SelfTerminatingHead(0, 1e-2).log_probs(logits, start)[0, :, 0].exp(), closed)
    limits = [SelfTerminatingHead(0, epsilon).max_greedy_steps for epsilon in (1e-2, 5e-4, 1e-4, 5e-5, 1e-5)]
    assert limits == [69, 1386, 6932, 13863, 69315]


@pytest.mark.parametrize("monotonic", [True, False])
def test_loss_and_gradient(monotonic):
    head = SelfTerminatingHead(EOS, 1e-2, monotonic)
    logits = torch.randn(2, 9, 7, dtype=torch.float64, requires_grad=True)
    # a prompt, then a text with an end; two texts one after the other
    labels = torch.tensor([[-100, -100, -100, 4, 5, 2, -100, -100, -100], [3, 4, 2, 5, 6, 2, 3, 4, 5]])
    log_probs = []
    for row, first, targets in ((0, 2, [4, 5, 2]), (1, 0, [4, 2]), (1, 2, [5, 6, 2]), (1, 5, [3, 4, 5])):
        probs = distributions(logits[row, first : first + len(targets)], EOS, 1e-2, monotonic)
        log_probs += [probs[place, target].log() for place, target in enumerate(targets)]
    loss = head.loss(logits, labels)
    torch.testing.assert_close(loss, -torch.stack(log_probs).detach().mean())
    assert float(loss.detach()) * 11 == pytest.approx(float(head.loss(logits, labels, num_items=1).detach()))
    moved = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100)
    assert torch.equal(head.loss(logits, moved, shift=False), loss)
    assert torch.autograd.gradcheck(lambda x: head.loss(x, labels), logits)
    nothing = head.loss(logits, torch.full_like(labels, -100))
    assert nothing == 0 and torch.autograd.grad(nothing, logits)[0].abs().sum() == 0


def test_the_source_of_unilm_is_nothing_to_learn():
    """As in UniLM's own loss, so that `labels = input_ids` is the same for both."""
    model, ids, types = tiny("unilm"), tokens(2, 9), torch.tensor([[0] * 5 + [1] * 4, [0] * 3 + [1] * 6])
    logits = model(ids, token_type_ids=types).logits
    targets = ids.masked_fill(types == 0, -100)
    head = SelfTerminatingHead(EOS, 1e-2)
    found = head.loss(logits, ids, token_type_ids=types)
    torch.testing.assert_close(found, head.loss(logits, targets), rtol=0, atol=0)
    # nearly no epsilon and one step per text: what the model's own loss is, where no earlier step counts
    almost = SelfTerminatingHead(EOS, 1e-12, monotonic=False)
    own = model(ids, token_type_ids=types, labels=ids).loss
    torch.testing.assert_close(almost.loss(logits, ids, token_type_ids=types), own.double(), rtol=1e-6, atol=0)


def test_loss_in_bf16_and_where_the_end_is_certain():
    head = SelfTerminatingHead(EOS, 1e-6)
    logits = torch.zeros(1, 300, 7)
    labels = torch.full((1, 300), 3)
    logits[..., EOS] = -80.0
    for dtype in (torch.float32, torch.bfloat16):
        # p = (1 - epsilon)^(t + 1) / 6: a sum over 300 steps keeps an epsilon of 1e-6
        expected = math.log(6) + 1e-6 * 150.5
        assert float(head.loss(logits.to(dtype), labels, shift=False)) == pytest.approx(expected, abs=2e-6)
    logits[..., EOS] = 80.0
    logits.requires_grad_()
    loss = head.loss(logits, labels.fill_(EOS), shift=False)
    assert 0 <= loss < 1e-6 and torch.autograd.grad(loss, logits)[0].isfinite().all()


@pytest.mark.parametrize("monotonic", [True, False])
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"do_sample": True}, {"num_beams": 2, "do_sample": True}])
def test_every_way_to_generate_ends_within_the_bound(monotonic, options):
    head = SelfTerminatingHead(EOS, 2e-2, monotonic)
    prompts = {
        "input_ids": torch.tensor([[EOS, 5, 6], [7, 8, 9]]),
        "attention_mask": torch.tensor([[0, 1, 1], [1] * 3]),
    }
    shared = {**prompts, "pad_token_id": EOS, "max_new_tokens": 80, **options}
    model = without_end(gpt2())
    assert (model.generate(**shared)[:, 3:] != EOS).all()
    ended = model.generate(**shared, logits_processor=[head.processor()])[:, 3:]
    assert (ended == EOS).any(-1).all()
    if not options:
        # with 40 tokens that are all but equally likely the end wins before its half
        assert ended.shape[1] <= head.max_greedy_steps


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("monotonic", [True, False])
def test_generated_scores_are_the_log_probs_of_the_text(monotonic, num_beams):
    """Beams change places, rows have prompts of different lengths; the score is that of the whole text read at once."""
    model, head = gpt2(seed=3), SelfTerminatingHead(EOS, 1e-2, monotonic)
    prompts, mask = torch.tensor([[EOS, EOS, 5], [7, 8, 9]]), torch.tensor([[0, 0, 1], [1, 1, 1]])
    output = model.generate(
        prompts, attention_mask=mask, max_new_tokens=12, pad_token_id=EOS, num_beams=num_beams, length_penalty=0.0,
        num_return_sequences=num_beams, return_dict_in_generate=True, output_scores=True, early_stopping=False,
        logits_processor=[head.processor()],
    )  # fmt: skip
    transitions = model.compute_transition_scores(
        output.sequences, output.scores, getattr(output, "beam_indices", None), normalize_logits=False
    )
    assert len(set(map(tuple, output.sequences.tolist()))) == 2 * num_beams
    for row, (sequence, found) in enumerate(zip(output.sequences, transitions, strict=True)):
        text = sequence[2 if row < num_beams else 0 :]
        start = torch.zeros(1, len(text), dtype=torch.bool)
        start[0, len(text) - 13 if len(text) == 13 else len(text) - (len(sequence) - 3) - 1] = True
        log_probs = head.log_probs(model(text[None]).logits, start)[0]
        new = text[len(text) - (len(sequence) - 3) :]
        last = (new == EOS).nonzero()[0, 0] + 1 if (new == EOS).any() else len(new)
        places = torch.arange(len(text) - len(new) - 1, len(text) - 1)[:last]
        torch.testing.assert_close(found[:last].double(), log_probs[places, new[:last]], rtol=0, atol=1e-5)


def test_an_assistant_takes_guesses_back():
    model, assistant = without_end(gpt2()), without_end(gpt2(seed=1))
    head = SelfTerminatingHead(EOS, 2e-2)
    options = {"max_new_tokens": 80, "pad_token_id": EOS}
    alone = model.generate(tokens(1, 4), **options, logits_processor=[head.processor()])
    helped = model.generate(tokens(1, 4), **options, assistant_model=assistant, logits_processor=[head.processor()])
    assert torch.equal(alone, helped) and alone.shape[1] < 80


def test_a_forbidden_end_waits():
    head, model = SelfTerminatingHead(EOS, 0.5), without_end(gpt2())
    output = model.generate(
        tokens(1, 3), max_new_tokens=40, min_new_tokens=10, pad_token_id=EOS, logits_processor=[head.processor()]
    )
    assert output.shape[1] == 3 + 11 and output[0, -1] == EOS  # by then the end has nearly all


def test_a_processor_serves_one_generate():
    head, model = SelfTerminatingHead(EOS), gpt2()
    processor = head.processor()
    options = {"max_new_tokens": 5, "min_new_tokens": 5, "pad_token_id": EOS, "logits_processor": [processor]}
    model.generate(tokens(1, 3), **options)
    with pytest.raises(ValueError, match="make a new one"):
        model.generate(tokens(1, 5, seed=9), **options)
    for bad in ({"epsilon": 0.0}, {"epsilon": 1.0}, {"epsilon": math.nan}):
        with pytest.raises(ValueError, match="epsilon is between"):
            SelfTerminatingHead(EOS, **bad)
    with pytest.raises(ValueError, match="no token of a vocabulary of 41"):
        model.generate(tokens(1, 3), max_new_tokens=1, logits_processor=[SelfTerminatingHead(99).processor()])


@pytest.mark.parametrize("family", ["dialogpt", "unilm"])
@pytest.mark.parametrize("monotonic", [True, False])
def test_our_models_carry_the_rule(family, monotonic, tmp_path):
    model = tiny(family, max_position_embeddings=200)
    model.cls.predictions.decoder.bias.data[2] = -40.0
    model.generation_config.pad_token_id = 0
    prompt = {"input_ids": torch.cat([tokens(2, 5), torch.full((2, 1), 2)], 1)}
    assert model.generate(**prompt, max_new_tokens=100).shape[1] == 106
    SelfTerminatingHead(2, 2e-2, monotonic).write(model.config)
    expected = model.generate(**prompt, max_new_tokens=100)
    assert expected.shape[1] <= 6 + 35
    assert torch.equal(model.generate(**prompt, max_new_tokens=100, use_cache=False), expected)
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(again.generate(**prompt, max_new_tokens=100), expected)
    if family == "dialogpt":
        assert isinstance(again, DialoGPTForCausalLM) and not again.config.is_stock
    else:
        source = prompt["input_ids"][0].tolist()
        target = bert4keras_beam_search(model, source, num_beams=1, max_new_tokens=100, end_id=2)
        assert target == expected[0, 6 : 6 + len(target)].tolist()


def test_training_learns_when_to_end():
    """With the rule in training the likelihood of texts of eight tokens ends them there, greedy and monotonic."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=9, n_embd=16, n_layer=1, n_head=2, n_positions=32, eos_token_id=EOS))
    head = SelfTerminatingHead(EOS, 1e-3)
    batch = torch.tensor([[4, 5, 6, 7, 8, 4, 5, EOS]] * 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(120):
        optimizer.zero_grad()
        head.loss(model(batch).logits, batch).backward()
        optimizer.step()
    output = model.eval().generate(
        batch[:1, :1], max_new_tokens=20, pad_token_id=0, logits_processor=[head.processor()]
    )
    assert output.tolist() == batch[:1].tolist()
