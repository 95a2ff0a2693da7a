"""TaiLr and gamma cross-entropy: oracle, slow forms, limits, and a target the model excludes."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from suzoo.losses import gamma_cross_entropy, tailr_loss
from tests.losses.helpers import assert_values, double, grad_of
from tests.reference.tailr import gamma_cross_entropy_reference, tailr_loss_reference

LOGITS, LABELS = double([[2, 0, -1], [0, 3, 1], [1, 1, 1]]), torch.tensor([0, 2, 1])
ORACLE = {
    1e-7: ([0.169846016412, 2.16984433642, 1.09861206895], [0.169846018029, 2.16984546085, 1.09861219853]),
    0.1: ([0.166758938865, 1.22197099531, 0.915510240557], [0.168336722247, 1.77294993144, 1.01810081319]),
    0.8: ([0.147936880927, 0.301135443056, 0.422543187949], [0.158697314257, 0.974973373695, 0.715504218203]),
    1.0: ([0.143315176974, 0.247785998837, 0.366204096223], [0.156205265519, 0.885804800615, 2 / 3]),
}


@pytest.mark.parametrize("gamma", ORACLE)
def test_tailr_and_closed_form_oracle(gamma):
    weighted, closed = ORACLE[gamma]
    assert_values(tailr_loss(LOGITS, LABELS, gamma=gamma, reduction="none"), weighted)
    assert_values(gamma_cross_entropy(LOGITS, LABELS, gamma=gamma, reduction="none"), closed)
    torch.testing.assert_close(  # two functions, one gradient
        grad_of(lambda x: tailr_loss(x, LABELS, gamma=gamma), LOGITS),
        grad_of(lambda x: gamma_cross_entropy(x, LABELS, gamma=gamma), LOGITS),
        rtol=1e-12,
        atol=1e-14,
    )


@pytest.mark.parametrize("gamma", [0.0, 0.1, 0.49, 0.51, 0.9])
def test_tailr_is_the_slow_form(gamma):
    torch.manual_seed(0)
    logits, labels = 3 * torch.randn(8, 5, dtype=torch.float64), torch.randint(0, 5, (8,))
    for ours, slow, options in (
        (tailr_loss, tailr_loss_reference, {"gamma": gamma, "min_weight": 0.3}),
        (gamma_cross_entropy, gamma_cross_entropy_reference, {"gamma": gamma}),
    ):
        torch.testing.assert_close(
            ours(logits, labels, reduction="none", **options), slow(logits, labels, **options), rtol=1e-10, atol=1e-12
        )
        torch.testing.assert_close(
            grad_of(lambda x, f=ours, o=options: f(x, labels, reduction="sum", **o), logits),
            grad_of(lambda x, f=slow, o=options: f(x, labels, **o), logits),
        )


def test_tailr_ends_are_cross_entropy_and_error_probability():
    nll = F.cross_entropy(LOGITS, LABELS, reduction="none")
    for loss in (tailr_loss, gamma_cross_entropy):
        torch.testing.assert_close(loss(LOGITS, LABELS, gamma=0.0, reduction="none"), nll)
    torch.testing.assert_close(
        gamma_cross_entropy(LOGITS, LABELS, gamma=1.0, reduction="none"), 1 - (-nll).exp(), rtol=1e-12, atol=0
    )
    near = gamma_cross_entropy(LOGITS, LABELS, gamma=1 - 1e-6, reduction="none")
    torch.testing.assert_close(near, 1 - (-nll).exp(), rtol=0, atol=4e-7)
    clipped = tailr_loss(LOGITS, LABELS, gamma=1e-7, min_weight=0.2, reduction="none")
    torch.testing.assert_close(clipped, nll, rtol=1e-5, atol=0)  # only clips tokens below p = 1e-6


def test_tailr_smoothing_is_not_weighted():
    smooth = -LOGITS.log_softmax(-1).mean(-1)
    expected = 0.9 * tailr_loss(LOGITS, LABELS, gamma=0.1, reduction="none") + 0.1 * smooth
    actual = tailr_loss(LOGITS, LABELS, gamma=0.1, label_smoothing=0.1, reduction="none")
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_tailr_of_an_impossible_target_is_finite_without_gradient(dtype):
    """The published code multiplies a weight of 0 by an infinite log-probability."""
    logits, labels = torch.tensor([[1.0, -math.inf, 0.0]], dtype=dtype), torch.tensor([1])
    assert tailr_loss(logits, labels, gamma=0.1) == 0
    assert gamma_cross_entropy(logits, labels, gamma=0.1).item() == pytest.approx(2.5584278811, rel=1e-6)
    for loss in (tailr_loss, gamma_cross_entropy):
        assert (grad_of(lambda x, f=loss: f(x, labels, gamma=0.1), logits) == 0).all()


def test_tailr_rejects_bad_options():
    with pytest.raises(ValueError, match=r"gamma must be in \[0, 1\], not 1.5"):
        tailr_loss(LOGITS, LABELS, gamma=1.5)
    with pytest.raises(ValueError, match="min_weight"):
        tailr_loss(LOGITS, LABELS, gamma=0.1, min_weight=-1)
    with pytest.raises(ValueError, match=r"logits\[:, :-1\]"):
        gamma_cross_entropy(LOGITS, LABELS[:2], gamma=0.1)
    with pytest.raises(TypeError):
        tailr_loss(LOGITS, LABELS)  # gamma has no default: the released one, 1, learns nothing from scratch
