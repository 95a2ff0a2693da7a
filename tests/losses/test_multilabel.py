"""Multi-label softmax cross-entropy: oracle, slow form, and where the copied sparse version goes wrong."""

from __future__ import annotations

import math

import pytest
import torch

from suzoo.losses import global_pointer_divergence, multilabel_cross_entropy, sparse_multilabel_cross_entropy
from tests.losses.helpers import assert_values, double, grad_of
from tests.reference.multilabel import multilabel_cross_entropy_reference

SCORES = double([[2, -1, 0.5, -3]])


def test_multilabel_oracle():
    targets = torch.tensor([[1, 0, 1, 0]])
    assert_values(multilabel_cross_entropy(SCORES, targets), 0.90396913641)
    grad = grad_of(lambda s: multilabel_cross_entropy(s, targets), SCORES)
    assert_values(grad[0], [-0.0776955791486, 0.259496460342, -0.348207427884, 0.0351190269593])
    assert_values(multilabel_cross_entropy(SCORES, torch.zeros(1, 4)), 2.34712278814)
    assert_values(multilabel_cross_entropy(SCORES, torch.ones(1, 4)), 3.2005360626)
    assert_values(multilabel_cross_entropy(SCORES * 0, targets), 2 * math.log(3))
    assert_values(multilabel_cross_entropy(SCORES, double([[0.9, 0.2, 0.6, 0]])), 1.71659295981)


@pytest.mark.parametrize("threshold", [0.0, 1.5])
@pytest.mark.parametrize("soft", [False, True])
def test_multilabel_is_the_two_sums(threshold, soft):
    torch.manual_seed(0)
    scores = torch.randn(5, 7, dtype=torch.float64)
    targets = torch.rand(5, 7).double() if soft else torch.rand(5, 7) > 0.6
    actual = multilabel_cross_entropy(scores, targets, threshold=threshold, reduction="none")
    expected = multilabel_cross_entropy_reference(scores, targets, threshold=threshold)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(
        grad_of(lambda s: multilabel_cross_entropy(s, targets, threshold=threshold, reduction="sum"), scores),
        grad_of(lambda s: multilabel_cross_entropy_reference(s, targets, threshold=threshold), scores),
    )
    each = torch.full((5,), threshold)  # one threshold per row, as a learnt one would be
    torch.testing.assert_close(multilabel_cross_entropy(scores, targets, threshold=each, reduction="none"), expected)


def test_multilabel_soft_optimum_is_half_the_logit():
    targets = double([[0.9, 0.2, 0.6]])
    grad = grad_of(lambda s: multilabel_cross_entropy(s, targets), targets.logit() / 2)
    assert grad.abs().max() < 1e-15


def test_multilabel_gradient_does_not_grow_with_the_number_of_classes():
    for num_classes in (10, 10_000):
        scores, targets = torch.zeros(1, num_classes), torch.zeros(1, num_classes)
        targets[0, 0] = 1
        grad = grad_of(lambda s, t=targets: multilabel_cross_entropy(s, t), scores)
        assert grad.abs().sum() <= 2 and grad[0, 0] == pytest.approx(-0.5)


def test_multilabel_mask_wins_over_the_target():
    masked = torch.cat([SCORES, double([[-math.inf, 7.0]])], 1)
    targets = torch.tensor([[1, 0, 1, 0, 1, 1]])
    mask = torch.tensor([True] * 5 + [False])
    assert_values(multilabel_cross_entropy(masked, targets, mask=mask), 0.90396913641)
    assert grad_of(lambda s: multilabel_cross_entropy(s, targets, mask=mask), masked)[0, 4:].tolist() == [0, 0]
    rows = SCORES.repeat(3, 1)
    keep = torch.tensor([True, False, True])[:, None]  # a whole row masked is not in the mean
    assert_values(multilabel_cross_entropy(rows, torch.tensor([[1, 0, 1, 0]]).repeat(3, 1), mask=keep), 0.90396913641)


@pytest.mark.parametrize("score", [10.0, 16.0, 20.0, 30.0])
def test_sparse_multilabel_stays_right_where_the_subtracting_form_fails(score):
    """log(clip(1 - exp(lse_pos - lse_all), 1e-7)) gives -0.118 at 16 and 13.9 at 30, with gradient +1."""
    scores = torch.tensor([[score, -5.0, -6.0]])
    expected = math.log1p(math.exp(-score)) + math.log1p(math.exp(-5) + math.exp(-6))
    assert sparse_multilabel_cross_entropy(scores, torch.tensor([[0]])).item() == pytest.approx(expected, rel=1e-5)
    grad = grad_of(lambda s: sparse_multilabel_cross_entropy(s, torch.tensor([[0]])), scores)
    assert -1e-4 < grad[0, 0] <= 0


def test_sparse_multilabel_equals_dense():
    torch.manual_seed(0)
    scores = torch.randn(4, 6, dtype=torch.float64)
    indices = torch.tensor([[0, 5, -1], [3, 3, -1], [-1, -1, -1], [1, 0, 2]])
    targets = torch.zeros(4, 6)
    for row, columns in zip(targets, indices, strict=True):
        row[columns[columns >= 0]] = 1
    torch.testing.assert_close(
        sparse_multilabel_cross_entropy(scores, indices, threshold=0.3, reduction="none"),
        multilabel_cross_entropy(scores, targets, threshold=0.3, reduction="none"),
    )
    zero_is_padding = torch.where(indices < 0, 0, indices)  # the convention of bert4keras' mask_zero
    zeroed = targets.clone()
    zeroed[:, 0] = 0
    torch.testing.assert_close(
        sparse_multilabel_cross_entropy(scores, zero_is_padding, pad_index=0), multilabel_cross_entropy(scores, zeroed)
    )


@pytest.mark.parametrize("target", [-100, 2, -100.0, 1.5])
def test_multilabel_targets_are_between_0_and_1(target):
    targets = torch.tensor([[1, target, 1, 0]])
    with pytest.raises(ValueError, match=r"targets must be in \[0, 1\]; give mask"):
        multilabel_cross_entropy(SCORES, targets)
    torch.compiler.reset()  # where it may not look, the loss says so
    assert torch.compile(multilabel_cross_entropy, backend="eager", fullgraph=True)(SCORES, targets).isnan()
    mask = (targets >= 0) & (targets <= 1)
    value = multilabel_cross_entropy(SCORES, targets, mask=mask)
    torch.testing.assert_close(value, multilabel_cross_entropy(SCORES[mask][None], targets[mask][None]))
    assert grad_of(lambda s: multilabel_cross_entropy(s, targets, mask=mask), SCORES).isfinite().all()


def test_multilabel_rejects_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match="one shape"):
        multilabel_cross_entropy(SCORES, torch.zeros(4))
    with pytest.raises(ValueError, match=r"indices \(..., K\)"):
        sparse_multilabel_cross_entropy(SCORES, torch.zeros(2, 1, dtype=torch.long))


def test_global_pointer_divergence_is_the_sum_of_binary_kls():
    a, b = double([1, -0.5, 2]), double([0.5, 0, 1])
    assert_values(global_pointer_divergence(a, b), 0.265267788663)
    p, q = a.sigmoid(), b.sigmoid()
    kl = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    lk = q * (q / p).log() + (1 - q) * ((1 - q) / (1 - p)).log()
    torch.testing.assert_close(global_pointer_divergence(a, b), (kl + lk).sum())
    masked = torch.cat([a, double([-math.inf])]), torch.cat([b, double([-math.inf])])
    assert_values(global_pointer_divergence(*masked), 0.265267788663)
    assert all(grad.isfinite().all() for grad in grad_of(global_pointer_divergence, *masked))


@pytest.mark.parametrize("index", [-2, 4, 99])
def test_sparse_multilabel_refuses_an_index_that_is_no_class(index):
    scores, indices = torch.randn(2, 4), torch.tensor([[1, -1], [0, index]])
    with pytest.raises(ValueError, match=rf"classes from 0 to 3 or pad_index \(-1\), not {index}"):
        sparse_multilabel_cross_entropy(scores, indices)
    torch.compiler.reset()  # where it may not look, the loss of the row says so
    compiled = torch.compile(sparse_multilabel_cross_entropy, backend="eager", fullgraph=True)
    losses = compiled(scores, indices, reduction="none")
    assert losses[1].isnan()
    torch.testing.assert_close(losses[:1], sparse_multilabel_cross_entropy(scores[:1], indices[:1], reduction="none"))
