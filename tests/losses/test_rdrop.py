"""R-Drop: its four scales, the divergence identity, and masked vocabularies."""

from __future__ import annotations

import math

import pytest
import torch

from suzoo.losses import rdrop_loss, rdrop_sum, symmetric_kl
from tests.losses.helpers import assert_values, double, grad_of
from tests.reference.rdrop import rdrop_loss_reference, symmetric_kl_reference

A, B, LABELS = double([[2, 0, -1]]), double([[1.5, 0.5, -1]]), torch.tensor([0])


def test_rdrop_oracle_of_the_named_scales():
    assert_values(symmetric_kl(A, B)[0], 0.0664927798448 + 0.0803290354589)
    assert_values(rdrop_loss(A, B, LABELS, convention="paper"), 0.835028682016)
    assert_values(rdrop_loss(A, B, LABELS, convention="blog"), 0.417514341008)
    assert_values(rdrop_loss(A, B, LABELS, convention="readme"), 0.564336156312)
    assert_values(rdrop_loss(A, B, LABELS, alpha=4 / 3), 0.319633130806)  # the version that averages over 3 classes


def test_rdrop_of_the_second_oracle_with_gradients():
    a, b = double([[2, 1, 0], [0.2, -0.4, 1]]), double([[1.5, 0.5, 0.2], [0.5, 0.1, 0.6]])
    labels = torch.tensor([0, 2])
    assert_values(rdrop_loss(a, b, labels, convention="paper"), 1.3823217508)
    assert_values(rdrop_loss(a, b, labels), 0.6911608754, rel=1e-9)
    assert_values(symmetric_kl(a, b).mean(), 0.1032585142, rel=1e-9)
    grad_a, grad_b = grad_of(lambda x, y: rdrop_loss(x, y, labels, convention="paper", reduction="sum"), a, b)
    assert_values(grad_a[0], [-0.1396347743, 0.3165106784, -0.1768759042], rel=1e-9)
    assert_values(grad_b[0], [-0.6434602834, 0.1311636317, 0.5122966517], rel=1e-9)


def test_rdrop_is_the_slow_form_and_the_logit_identity():
    torch.manual_seed(0)
    a, b = torch.randn(2, 7, 5, dtype=torch.float64)
    labels = torch.randint(0, 5, (7,))
    torch.testing.assert_close(symmetric_kl(a, b), symmetric_kl_reference(a, b), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(symmetric_kl(a, b), ((a.softmax(-1) - b.softmax(-1)) * (a - b)).sum(-1))
    ours = lambda x, y: rdrop_loss(x, y, labels, alpha=3.0, convention="paper", reduction="none")  # noqa: E731
    slow = lambda x, y: rdrop_loss_reference(x, y, labels, alpha=3.0)  # noqa: E731
    torch.testing.assert_close(ours(a, b), slow(a, b))
    torch.testing.assert_close(grad_of(ours, a, b), grad_of(slow, a, b))


def test_rdrop_of_equal_passes_is_cross_entropy():
    torch.testing.assert_close(rdrop_loss(A, A, LABELS), torch.nn.functional.cross_entropy(A, LABELS))
    assert symmetric_kl(A, A).item() == 0


def test_symmetric_kl_of_a_masked_vocabulary_is_finite():
    """F.kl_div gives NaN here."""
    a, b = double([[1, -math.inf, 0]]), double([[0.5, -math.inf, 0]])
    expected = symmetric_kl(a[:, [0, 2]], b[:, [0, 2]])
    torch.testing.assert_close(symmetric_kl(a, b), expected)
    p, q = a.softmax(-1)[0, [0, 2]], b.softmax(-1)[0, [0, 2]]
    assert_values((p * (p / q).log()).sum(), 0.0263445859769)
    grad_a, grad_b = grad_of(symmetric_kl, a, b)
    assert grad_a[0, 1] == grad_b[0, 1] == 0 and grad_a.isfinite().all() and grad_b.isfinite().all()
    assert symmetric_kl(a, double([[0.5, 0, 0]])).isinf()  # only one pass excludes the class


@pytest.mark.parametrize("convention", ["blog", "paper", "readme"])
def test_rdrop_sum_is_rdrop_of_any_loss(convention):
    torch.manual_seed(0)
    a, b, labels = *torch.randn(2, 7, 5, dtype=torch.float64), torch.randint(0, 5, (7,))
    each = torch.nn.functional.cross_entropy(a, labels), torch.nn.functional.cross_entropy(b, labels)
    parts = rdrop_sum(*each, symmetric_kl(a, b).mean(), alpha=3.0, convention=convention)
    torch.testing.assert_close(parts, rdrop_loss(a, b, labels, alpha=3.0, convention=convention))
    with pytest.raises(ValueError, match="alpha"):
        rdrop_sum(*each, each[0], alpha=-1.0)


def test_rdrop_rejects_bad_input():
    with pytest.raises(ValueError, match="convention must be one of"):
        rdrop_loss(A, B, LABELS, convention="half")
    with pytest.raises(ValueError, match="one shape"):
        rdrop_loss(A, B[:, :2], LABELS)
