"""CoSENT: values, gradients, and the properties of a loss that only knows the order of labels."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from suzoo import distributed
from suzoo.losses import cosent_loss
from tests.ranks import run_ranks
from tests.reference.cosent import cosent_loss_reference

SCORES = [0.9, 0.2, 0.5, -0.1, 0.55]
# computed with 50 digits, independently of this code
ORACLE = [
    (
        [1, 0, 1, 0, 0],
        1.31417502888,
        [-0.00490485851908, 0.0133250794169, -14.6211771778, 3.3029569609e-05, 14.6127239273],
    ),
    (
        [5, 1, 3, 3, 2],
        13.0009198738,
        [-5.63739962395e-08, 0.0182210238742, -0.000122868062766, -19.9998318542, 19.9817337548],
    ),
]


def value_and_grad(scores, labels, loss=cosent_loss, **options):
    scores = torch.as_tensor(scores, dtype=torch.float64) if isinstance(scores, list) else scores
    scores = scores.clone().requires_grad_()
    value = loss(scores, torch.as_tensor(labels), **options)
    (grad,) = torch.autograd.grad(value, scores)
    return value.detach(), grad


@pytest.mark.parametrize(("labels", "expected", "expected_grad"), ORACLE)
def test_cosent_oracle(labels, expected, expected_grad):
    value, grad = value_and_grad(SCORES, labels)
    assert value.item() == pytest.approx(expected, rel=1e-11)
    torch.testing.assert_close(grad, torch.tensor(expected_grad, dtype=torch.float64), rtol=1e-10, atol=1e-13)


def test_cosent_of_interleaved_embeddings():
    rows = torch.tensor([[1, 2, 0], [2, 1, 1], [0, 1, -1], [1, 1, 1], [3, 0, 1], [1, -1, 2]], dtype=torch.float64)
    cosines = F.cosine_similarity(rows[::2], rows[1::2])
    assert cosent_loss(cosines, torch.tensor([1, 0, 2])).item() == pytest.approx(1.86439726043, rel=1e-11)


@pytest.mark.parametrize("num_pairs", [1, 2, 7, 33])
@pytest.mark.parametrize("scale", [1.0, 20.0, 300.0])  # 300 leaves the fast form
@pytest.mark.parametrize("kind", ["binary", "graded", "continuous", "bool"])
def test_cosent_is_the_double_loop(num_pairs, scale, kind):
    torch.manual_seed(num_pairs)
    scores = torch.rand(num_pairs, dtype=torch.float64) * 2 - 1
    labels = {
        "binary": torch.randint(0, 2, (num_pairs,)),
        "graded": torch.randint(0, 6, (num_pairs,)) / 2,
        "continuous": torch.rand(num_pairs),
        "bool": torch.randint(0, 2, (num_pairs,)).bool(),
    }[kind]
    expected = value_and_grad(scores, labels, cosent_loss_reference, scale=scale)
    actual = value_and_grad(scores, labels, scale=scale)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-11)


def test_cosent_binary_labels_are_one_softplus():
    torch.manual_seed(0)
    scores, labels = torch.randn(20, dtype=torch.float64), torch.arange(20) % 3 == 0
    expected = F.softplus((scores[~labels]).logsumexp(0) + (-scores[labels]).logsumexp(0))
    assert cosent_loss(scores, labels, scale=1.0).item() == pytest.approx(expected.item(), rel=1e-12)
    _, grad = value_and_grad(scores, labels)
    assert (grad[~labels] >= 0).all() and (grad[labels] <= 0).all()


def test_cosent_knows_only_the_order_of_labels_and_differences_of_scores():
    torch.manual_seed(0)
    scores, labels = torch.randn(30, dtype=torch.float64), torch.randint(0, 5, (30,)).double()
    value, grad = value_and_grad(scores, labels)
    assert grad.sum().abs() < 1e-12 * grad.abs().sum()
    assert grad.abs().sum() <= 2 * 20.0 * (1 + 1e-12)
    shifted, _ = value_and_grad(scores + 0.3, labels)
    far, far_grad = value_and_grad(scores - 1024, labels)  # a cross-encoder may have any offset
    assert far.item() == pytest.approx(value.item(), rel=1e-9) and far_grad.isfinite().all()
    relabelled, _ = value_and_grad(scores, labels.exp() - 7)
    order = torch.randperm(30)
    permuted, permuted_grad = value_and_grad(scores[order], labels[order])
    for other in (shifted, relabelled, permuted):
        assert other.item() == pytest.approx(value.item(), rel=1e-12)
    torch.testing.assert_close(permuted_grad, grad[order], rtol=1e-10, atol=1e-12)


def test_cosent_at_equal_scores_counts_the_couples():
    assert cosent_loss(torch.zeros(5), torch.tensor([1, 1, 0, 0, 0])).item() == pytest.approx(math.log(1 + 6))


@pytest.mark.parametrize("labels", [[2.0, 2.0, 2.0], [1.0], []])
@pytest.mark.parametrize("spread", [1.0, 1e4])
def test_cosent_with_nothing_to_order_is_an_attached_exact_zero(labels, spread):
    scores = (torch.arange(len(labels)) * spread).requires_grad_()
    value = cosent_loss(scores, torch.tensor(labels))
    value.backward()
    assert value.item() == 0 and scores.grad.tolist() == [0.0] * len(labels)


def test_cosent_infinite_scores_stay_finite_and_get_no_gradient():
    # a lower label at -inf is already in order: the loss of the other two
    value, grad = value_and_grad([-math.inf, 0.2, 0.3], [0, 1, 0])
    expected, expected_grad = value_and_grad([0.2, 0.3], [1, 0])
    assert value.item() == pytest.approx(expected.item())
    torch.testing.assert_close(grad, torch.cat([grad.new_zeros(1), expected_grad]))
    for scores in ([0.1, -math.inf, 0.2], [-math.inf, -math.inf, 0.0], [math.inf, math.inf, 0.0], [1e6, -1e6, 0.0]):
        value, grad = value_and_grad(scores, [0, 1, 0])
        assert value.isfinite() and grad.isfinite().all()


def test_cosent_nan_score_is_not_hidden():
    assert cosent_loss(torch.tensor([0.1, math.nan, 0.2]), torch.tensor([0, 1, 2])).isnan()


def test_cosent_rejects_bad_input():
    with pytest.raises(ValueError, match="NaN label"):
        cosent_loss(torch.zeros(2), torch.tensor([0.0, math.nan]))
    with pytest.raises(ValueError, match=r"scores \(P,\) and labels \(P,\), not \(3,\) and \(2,\)"):
        cosent_loss(torch.zeros(3), torch.zeros(2))
    with pytest.raises(ValueError, match=r"not \(2, 2\)"):
        cosent_loss(torch.zeros(2, 2), torch.zeros(2, 2))


def test_cosent_float32_gradient_error_is_below_1e_6():
    """The sorted form in float32 is off by about 3e-6; the double running sum costs nothing and is not."""
    torch.manual_seed(0)
    for num_pairs in (32, 512, 4096):
        scores = torch.rand(num_pairs) * 2 - 1
        labels = torch.randint(0, 6, (num_pairs,))
        value, grad = value_and_grad(scores, labels)
        exact, exact_grad = value_and_grad(scores.double(), labels)
        assert grad.dtype == value.dtype == torch.float32
        assert (value.double() - exact).abs() <= 1e-6 * exact
        assert (grad.double() - exact_grad).abs().max() <= 1e-6


def test_cosent_both_forms_agree_to_second_order():
    """The running sum of exponentials and the logcumsumexp that takes over beyond a spread of 300."""
    torch.manual_seed(0)
    scores, labels = torch.rand(9, dtype=torch.float64).requires_grad_(), torch.arange(9) % 4
    assert torch.autograd.gradcheck(lambda s: cosent_loss(s, labels), scores)
    assert torch.autograd.gradgradcheck(lambda s: cosent_loss(s, labels, scale=5.0), scores)
    far = torch.cat([scores, scores.new_tensor([-1e3])])  # lowest label: far below, so it changes nothing
    value = cosent_loss(far, torch.cat([labels, torch.tensor([-1])]))
    torch.testing.assert_close(value, cosent_loss(scores, labels), rtol=1e-12, atol=0)
    assert torch.autograd.gradcheck(lambda s: cosent_loss(torch.cat([s, s[:1] * 0 - 1e3]), torch.arange(10)), scores)


def test_cosent_of_halves_is_not_the_loss_of_the_whole():
    scores, labels = torch.tensor(SCORES), torch.tensor([1, 0, 1, 0, 0])
    halves = (cosent_loss(scores[:2], labels[:2]) + cosent_loss(scores[2:], labels[2:])) / 2
    assert halves.item() == pytest.approx(0.656632085739, rel=1e-6)
    assert cosent_loss(scores, labels).item() == pytest.approx(1.31417502888, rel=1e-6)


def pairs_and_encoder():
    torch.manual_seed(3)
    return (
        torch.randn(9, 5, dtype=torch.float64),
        torch.randn(9, 5, dtype=torch.float64),
        torch.randint(0, 3, (9,)),
        torch.nn.Linear(5, 6).double(),
    )


def cosent_gradient_of_a_rank() -> torch.Tensor:
    a, b, labels, encoder = pairs_and_encoder()
    mine = slice(0, 5) if distributed.rank() == 0 else slice(5, 9)  # ranks of unequal size
    scores = F.cosine_similarity(encoder(a[mine]), encoder(b[mine]))
    cosent_loss(distributed.gather(scores), distributed.gather(labels[mine])).backward()
    return distributed.all_reduce_mean(encoder.weight.grad)  # as DDP averages


def test_cosent_of_two_ranks_is_the_loss_of_one_process():
    a, b, labels, encoder = pairs_and_encoder()
    cosent_loss(F.cosine_similarity(encoder(a), encoder(b)), labels).backward()
    for grad in run_ranks(cosent_gradient_of_a_rank):
        torch.testing.assert_close(grad, encoder.weight.grad, rtol=1e-12, atol=1e-13)
