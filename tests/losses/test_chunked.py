"""A loss in chunks is the loss, and never sees more than a chunk of logits."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from suzoo.losses import (
    CosineLinear,
    am_softmax_loss,
    chunked_loss,
    cross_entropy_loss,
    focal_loss,
    gamma_cross_entropy,
    tailr_loss,
)


def make_case(dtype=torch.float64):
    torch.manual_seed(0)
    head = nn.Linear(4, 11).to(dtype)
    hidden = torch.randn(3, 9, 4, dtype=dtype, requires_grad=True)
    labels = torch.randint(0, 11, (3, 9))
    labels[0, :5] = labels[2] = -100
    return head, hidden, labels


@pytest.mark.parametrize(
    "loss",
    [
        partial(cross_entropy_loss, label_smoothing=0.1, z_loss=1e-3),
        partial(tailr_loss, gamma=0.1, min_weight=0.2),
        partial(gamma_cross_entropy, gamma=0.8),
        focal_loss,
    ],
)
@pytest.mark.parametrize("chunk_size", [1, 4, 100])
@pytest.mark.parametrize("num_items", [None, 20])
def test_chunked_loss_is_the_loss(loss, chunk_size, num_items):
    head, hidden, labels = make_case()
    seen = []
    handle = head.register_forward_hook(lambda _, args, output: seen.append(len(output)))
    actual = chunked_loss(loss, head, hidden, labels, chunk_size=chunk_size, num_items=num_items)
    grads = torch.autograd.grad(actual, (hidden, *head.parameters()))
    handle.remove()
    expected = loss(head(hidden), labels, num_items=num_items)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(grads, torch.autograd.grad(expected, (hidden, *head.parameters())))
    num_labels = int((labels != -100).sum())
    assert max(seen) <= chunk_size and sum(seen) == 2 * num_labels  # each token once forwards, once for the backward


@pytest.mark.parametrize("num_items", [None, 0])
def test_chunked_loss_of_nothing_is_zero_with_zero_gradients(num_items):
    for of_logits, linear in ((cross_entropy_loss, nn.Linear), (am_softmax_loss, CosineLinear)):
        _, hidden, labels = make_case()
        head = linear(4, 11).double()
        loss = chunked_loss(of_logits, head, hidden, torch.full_like(labels, -100), num_items=num_items)
        loss.backward()
        assert loss == 0 and (hidden.grad == 0).all() and (head.weight.grad == 0).all()


def test_chunked_loss_takes_ignore_index_itself():
    head, hidden, labels = make_case()
    labels = labels.clamp_min(0)
    with pytest.raises(ValueError, match="give ignore_index=0 to it"):
        chunked_loss(partial(cross_entropy_loss, ignore_index=0), head, hidden, labels)
    expected = cross_entropy_loss(head(hidden), labels, ignore_index=0)
    for loss in (cross_entropy_loss, partial(cross_entropy_loss, ignore_index=0)):
        torch.testing.assert_close(chunked_loss(loss, head, hidden, labels, ignore_index=0), expected)


def test_chunked_loss_runs_in_a_compiled_function():
    head, hidden, labels = make_case()

    def loss(hidden):
        return chunked_loss(cross_entropy_loss, head, hidden, labels, chunk_size=4)

    compiled = torch.compile(loss, backend="eager")
    torch.testing.assert_close(compiled(hidden), loss(hidden))
    torch.testing.assert_close(torch.autograd.grad(compiled(hidden), hidden), torch.autograd.grad(loss(hidden), hidden))


def test_chunked_loss_adds_up_in_float32():
    head, hidden, labels = make_case(torch.bfloat16)
    loss = chunked_loss(cross_entropy_loss, head, hidden, labels, chunk_size=2)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, cross_entropy_loss(head(hidden), labels), rtol=1e-2, atol=0)
    with pytest.raises(ValueError, match=r"labels \(...\)"):
        chunked_loss(cross_entropy_loss, head, hidden, labels[:, 1:])
    with pytest.raises(ValueError, match="chunk_size"):
        chunked_loss(cross_entropy_loss, head, hidden, labels, chunk_size=0)
