"""WEISSI, random replacement and the R-Drop batch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from suzoo.losses import rdrop_loss
from suzoo.regularizers import random_replacement, repeat_rows, weissi_penalty
from tests.regularizers.tiny import batch, classifier

WEIGHTS = {"log_weight": 0.1, "direction_weight": 0.01}


def matrices():
    first = torch.tensor([[3.0, 4.0]], dtype=torch.float64, requires_grad=True)
    second = torch.tensor([[1.0], [-2.0]], dtype=torch.float64, requires_grad=True)
    return first, second


def test_weissi_oracle():
    first, second = matrices()
    penalty = weissi_penalty([first, second], **WEIGHTS)
    assert penalty.item() == pytest.approx(0.2688320947, abs=1e-10)
    grad_first, grad_second = torch.autograd.grad(penalty, (first, second))
    assert grad_first[0].tolist() == pytest.approx([0.01232, 0.01576], abs=1e-10)
    assert grad_second[:, 0].tolist() == pytest.approx([0.0217888544, -0.0391055728], abs=1e-10)
    for weight, grad in ((first, grad_first), (second, grad_second)):
        assert (weight * grad).sum().item() == pytest.approx(0.1)  # lambda1 per layer, whatever its size


def test_weissi_does_not_see_scale_moving_between_layers_and_l2_does():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6, bias=False), nn.ReLU(), nn.Linear(6, 2, bias=False)).double()
    x = torch.randn(5, 4, dtype=torch.float64)
    output, penalty = net(x), weissi_penalty(net.parameters())
    squares = sum(p.square().sum() for p in net.parameters())
    with torch.no_grad():
        net[0].weight *= 7
        net[2].weight /= 7
    torch.testing.assert_close(net(x), output)
    torch.testing.assert_close(weissi_penalty(net.parameters()), penalty)
    assert sum(p.square().sum() for p in net.parameters()) > 2 * squares


def test_weissi_of_zero_and_short_matrices_is_finite():
    first, second = matrices()
    zero = torch.zeros(2, 2, dtype=torch.float64, requires_grad=True)
    penalty = weissi_penalty([first, second, zero], **WEIGHTS)
    torch.testing.assert_close(penalty, weissi_penalty([first, second], **WEIGHTS))
    assert (torch.autograd.grad(penalty, zero)[0] == 0).all()
    assert weissi_penalty([first.bfloat16()]).dtype == torch.float32
    with pytest.raises(ValueError, match=r"not shape \(3,\)"):
        weissi_penalty([torch.ones(3)])
    with pytest.raises(ValueError, match="no weights"):
        weissi_penalty([])


def long_batch():
    input_ids = torch.arange(2, 12).repeat(5000, 1) + 10 * torch.arange(5000)[:, None]  # every id once
    replaceable = torch.zeros(5000, 10, dtype=torch.bool)
    replaceable[:, 6:9] = True
    return input_ids, replaceable


def test_random_replacement_touches_what_it_may_at_the_stated_rate():
    input_ids, replaceable = long_batch()
    before = input_ids.clone()
    replaced = random_replacement(input_ids, replaceable, generator=torch.Generator().manual_seed(0))
    changed = replaced != input_ids
    assert torch.equal(input_ids, before) and not changed[~replaceable].any()
    # half of the rows, 0.3 of their tokens, and one time in three a token is drawn for itself
    assert changed[replaceable].float().mean().item() == pytest.approx(0.5 * 0.3 * 2 / 3, rel=0.1)
    assert changed.any(1).float().mean() < 0.4  # by rows, not by tokens of all rows
    pool = input_ids[:, 6:9]
    assert (replaced[changed][:, None] == pool[changed.nonzero()[:, 0]]).any(1).all()
    again = random_replacement(input_ids, replaceable, generator=torch.Generator().manual_seed(0))
    assert torch.equal(replaced, again)


def test_random_replacement_draws_from_the_pool_it_is_given():
    input_ids, replaceable = long_batch()
    whole = random_replacement(input_ids, replaceable, prob=1, rate=1, pool=torch.ones_like(replaceable))
    drawn = whole[:, 6:9]
    assert (drawn[:, :, None] == input_ids[:, None]).any(-1).all() and (
        drawn[:, :, None] == input_ids[:, None, :6]
    ).any()
    vocabulary = random_replacement(input_ids, replaceable, prob=1, rate=1, vocab_size=7)[:, 6:9]
    assert set(vocabulary.unique().tolist()) == set(range(7))
    assert torch.equal(random_replacement(input_ids, replaceable, rate=0), input_ids)
    assert torch.equal(random_replacement(input_ids, replaceable, prob=0), input_ids)
    nothing = torch.zeros_like(replaceable)
    assert torch.equal(random_replacement(input_ids, replaceable, prob=1, rate=1, pool=nothing), input_ids)
    for empty in (slice(0), (slice(None), slice(0))):
        assert torch.equal(random_replacement(input_ids[empty], replaceable[empty]), input_ids[empty])


def test_random_replacement_rejects_bad_input():
    input_ids, replaceable = long_batch()
    with pytest.raises(ValueError, match=r"replaceable must be \(5000, 10\)"):
        random_replacement(input_ids, replaceable[:2])
    with pytest.raises(ValueError, match=r"rate must be in \[0, 1\]"):
        random_replacement(input_ids, replaceable, rate=3)
    with pytest.raises(ValueError, match="not both"):
        random_replacement(input_ids, replaceable, pool=replaceable, vocab_size=5)


def test_repeated_rows_draw_their_own_dropout():
    inputs = batch()
    labels = inputs.pop("labels")
    for dropout in (0.0, 0.5):
        model = classifier(dropout=dropout)
        a, b = model(**repeat_rows(inputs)).logits.chunk(2)
        assert torch.allclose(a, b) == (dropout == 0)
        cross_entropy = (nn.functional.cross_entropy(a, labels) + nn.functional.cross_entropy(b, labels)) / 2
        divergence = rdrop_loss(a, b, labels) - cross_entropy
        assert (divergence.abs() < 1e-9).item() == (dropout == 0)
    assert repeat_rows({"input_ids": torch.ones(2, 3), "use_cache": False})["use_cache"] is False
    with pytest.raises(ValueError, match="num_items is a scalar"):
        repeat_rows({"num_items": torch.tensor(3)})
