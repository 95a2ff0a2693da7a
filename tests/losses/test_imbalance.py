"""Focal and truncation losses, F1 weighting, dice, logit adjustment, class-balanced weights."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from suzoo import distributed
from suzoo.losses import (
    RunningF1,
    binary_focal_loss,
    class_balanced_weights,
    class_log_prior,
    dice_loss,
    f1_weighted_bce,
    focal_loss,
    logit_adjusted_cross_entropy,
    soft_truncation_loss,
)
from tests.losses.helpers import assert_values, double, grad_of
from tests.ranks import run_ranks
from tests.reference import imbalance as reference

ONES = torch.ones(3, dtype=torch.long)
LOGITS, LABELS = double([[2, 0, -1], [0, 3, 1]]), torch.tensor([0, 2])


def test_focal_and_truncation_oracle():
    x = double([2, 0, -2])
    for gamma, expected in (
        (0.0, [0.126928011043, 0.69314718056, 2.12692801104]),
        (1.0, [0.0151301898028, 0.34657359028, 1.8733919772]),
        (2.0, [0.00180356283524, 0.17328679514, 1.65007817942]),
    ):
        assert_values(binary_focal_loss(x, ONES, gamma=gamma, reduction="none"), expected)
        assert_values(binary_focal_loss(-x, 0 * ONES, gamma=gamma, reduction="none"), expected)
    for slope, expected in (
        (1.0, [0.0151301898028, 0.34657359028, 1.8733919772]),
        (2.0, [0.00228295385669, 0.34657359028, 2.08867263726]),
        (10.0, [2.61618129211e-10, 0.34657359028, 2.12692800666]),
        (math.inf, [0, 0.69314718056, 2.12692801104]),
    ):
        assert_values(soft_truncation_loss(x, ONES, slope=slope, reduction="none"), expected)
    assert_values(focal_loss(LOGITS, LABELS, reduction="none"), [0.00414425730997, 1.70256999342])
    assert_values(grad_of(lambda z: focal_loss(z, LABELS, reduction="sum"), LOGITS)[0, 0], -0.0108052267453)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_is_the_slow_form(gamma):
    torch.manual_seed(0)
    logits, labels = torch.randn(8, 5, dtype=torch.float64), torch.randint(0, 5, (8,))
    targets = torch.randint(0, 2, (8, 5))
    for ours, slow in (
        (
            lambda z: focal_loss(z, labels, gamma=gamma, reduction="none"),
            lambda z: reference.focal_loss_reference(z, labels, gamma=gamma),
        ),
        (
            lambda z: binary_focal_loss(z, targets, gamma=gamma, alpha=0.3, reduction="none"),
            lambda z: reference.binary_focal_loss_reference(z, targets, gamma=gamma, alpha=0.3),
        ),
        (
            lambda z: soft_truncation_loss(z, targets, slope=gamma + 1, reduction="none"),
            lambda z: reference.soft_truncation_loss_reference(z, targets, slope=gamma + 1),
        ),
    ):
        torch.testing.assert_close(ours(logits), slow(logits))
        torch.testing.assert_close(grad_of(ours, logits), grad_of(slow, logits))


def test_focal_weight_can_be_constant():
    p = LOGITS.softmax(-1)[torch.arange(2), LABELS]
    constant = grad_of(lambda z: focal_loss(z, LABELS, detach_weight=True, reduction="sum"), LOGITS)
    plain = grad_of(lambda z: F.cross_entropy(z, LABELS, reduction="sum"), LOGITS)
    torch.testing.assert_close(constant, (1 - p)[:, None] ** 2 * plain)
    x = double([1.0])
    grad = grad_of(lambda z: binary_focal_loss(z, ONES[:1], detach_weight=True), x)
    torch.testing.assert_close(grad, -((1 - x.sigmoid()) ** 3))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_gradient_is_finite_however_sure_the_model_is(gamma):
    """(1 - sigmoid(x))**0.5 has a NaN gradient from x = 17 on in float32."""
    x = torch.tensor([60.0, 120.0, math.inf, -math.inf, -1e4])
    grad = grad_of(lambda z: binary_focal_loss(z, torch.ones(5), gamma=gamma), x)
    assert grad.isfinite().all()
    rows = torch.tensor([[60.0, 0.0], [math.inf, 0.0], [-math.inf, 0.0], [0.0, -math.inf]])
    assert grad_of(lambda z: focal_loss(z, torch.zeros(4, dtype=torch.long), gamma=gamma), rows).isfinite().all()
    one_class, label = torch.zeros(2, 1), torch.zeros(2, dtype=torch.long)
    assert focal_loss(one_class, label, gamma=gamma).item() == 0
    assert (grad_of(lambda z: focal_loss(z, label, gamma=gamma), one_class) == 0).all()


def test_focal_per_positive_of_a_batch_without_positives():
    x = double([2, 0, -2])
    for num_positives in (0, torch.tensor(0)):
        summed = binary_focal_loss(x, 0 * ONES, reduction="sum")
        assert binary_focal_loss(x, 0 * ONES, num_items=num_positives) == summed


@pytest.mark.parametrize("loss", [binary_focal_loss, soft_truncation_loss, f1_weighted_bce])
@pytest.mark.parametrize("target", [-1, 2, 0.5])
def test_targets_are_0_or_1(loss, target):
    x, targets = torch.tensor([2.0, -1.0, 0.5]), torch.tensor([1, target, -100])
    with pytest.raises(ValueError, match=r"targets must be 0, 1 or ignore_index \(-100\)"):
        loss(x, targets)
    torch.compiler.reset()  # where it may not look, the loss says so
    assert torch.compile(loss, backend="eager", fullgraph=True)(x, targets).isnan()
    assert loss(x, torch.tensor([True, False, True])) == loss(x, torch.tensor([1.0, 0.0, 1.0]))


def test_f1_does_not_enlarge_the_loss():
    for f1 in (torch.full((4, 1), 0.5), torch.full((2,), 0.5)):
        with pytest.raises(ValueError, match=r"f1 \(.*\) does not broadcast to the logits \(4,\)"):
            f1_weighted_bce(Z, Y, f1=f1)
    assert f1_weighted_bce(Z, Y, f1=torch.full((1,), 0.5)) == f1_weighted_bce(Z, Y, f1=0.5)


def test_focal_rejects_bad_options():
    with pytest.raises(ValueError, match="gamma must be at least 0"):
        focal_loss(LOGITS, LABELS, gamma=-1)
    with pytest.raises(ValueError, match="slope must be positive"):
        soft_truncation_loss(LOGITS, LOGITS, slope=0)


Z, Y = double([2, -1, 0.5, -2]), torch.tensor([1, 1, 0, 0])


def test_f1_oracle():
    assert_values(f1_weighted_bce(Z, Y), 0.334993868311)
    torch.testing.assert_close(f1_weighted_bce(Z, Y), reference.f1_weighted_bce_reference(Z, Y))
    assert_values(f1_weighted_bce(Z, Y, f1=0.590912410441), 0.334993868311)
    assert_values(dice_loss(Z, Y, smoothing=0), 0.409087589559)  # one minus the smooth F1
    assert_values(dice_loss(Z, Y), 0.32545355296)
    assert_values(
        grad_of(lambda z: dice_loss(z, Y, smoothing=0), Z),
        [-0.038018484238, -0.0711937558491, 0.0356855073197, 0.0159433624488],
    )


def test_f1_gradient_is_that_of_the_smooth_f1_with_log_probabilities():
    """-dF1 = -(2/sum(y + p)) (y - F1/2) dp; without the common factor and with dp -> d log p it is ours."""
    f1 = reference.smooth_f1_reference(Z, Y).detach()
    p = Z.sigmoid()
    ours = grad_of(lambda z: f1_weighted_bce(z, Y, reduction="sum"), Z)
    smooth = grad_of(lambda z: -reference.smooth_f1_reference(z, Y), Z) * (Y + p).sum() / 2
    torch.testing.assert_close(smooth, -(Y - f1 / 2) * p * (1 - p))
    torch.testing.assert_close(ours, smooth / torch.where(Y > 0, p, 1 - p))


def test_f1_of_a_batch_without_positives_and_the_remedy():
    nothing = torch.zeros(4)
    assert (grad_of(lambda z: f1_weighted_bce(z, nothing), Z) == 0).all()  # documented: it teaches nothing
    running = RunningF1().double()
    f1 = running(Z, nothing)
    assert 0.4 < f1 < 0.5
    assert (grad_of(lambda z: f1_weighted_bce(z, nothing, f1=f1), Z) > 0).all()
    assert (grad_of(lambda z: dice_loss(z, nothing, smoothing=0), Z) == 0).all()
    assert (grad_of(lambda z: dice_loss(z, nothing), Z) > 0).all()


def test_running_f1_converges_to_the_f1_and_holds_in_eval():
    logits, targets = torch.stack([Z, Z.flip(0)], 1), torch.stack([Y, Y], 1)
    running = RunningF1(momentum=0.5)
    each = RunningF1(2, momentum=0.5)
    for _ in range(40):
        f1, per_class = running(logits, targets), each(logits, targets)
    assert f1.item() == pytest.approx(reference.smooth_f1_reference(logits, targets).item(), rel=1e-5)
    for column in range(2):
        expected = reference.smooth_f1_reference(logits[:, column], targets[:, column])
        assert per_class[column].item() == pytest.approx(expected.item(), rel=1e-5)
    assert f1_weighted_bce(logits, targets, f1=per_class, reduction="none").shape == (4, 2)
    running.eval()
    assert running(-logits, targets) == f1
    copy = RunningF1().eval()
    copy.load_state_dict(running.state_dict())
    assert copy(logits, targets) == f1
    mass = each.mass.clone()
    each(logits, torch.full_like(targets, -100))  # nothing seen changes nothing
    assert torch.equal(each.mass, mass)
    with pytest.raises(ValueError, match="momentum"):
        RunningF1(momentum=1.0)


def test_a_nan_is_seen_in_the_loss_and_not_kept_in_the_running_f1():
    running = RunningF1(2, momentum=0.5)
    targets = torch.tensor([[1, 1], [0, 0]])
    f1 = running(torch.tensor([[2.0, 2.0], [-1.0, -1.0]]), targets)
    broken = torch.tensor([[math.nan, 1.0], [-1.0, -2.0]])
    after = running(broken, targets)
    assert after[0] == f1[0] and after[1] != f1[1]  # the class without a NaN goes on learning
    assert f1_weighted_bce(broken, targets, f1=after).isnan()
    assert f1_weighted_bce(torch.tensor([0.0, math.nan]), targets[:, 0], reduction="none").isnan().all()


def test_dice_macro_is_the_mean_over_classes():
    logits, targets = torch.stack([Z, Z.flip(0)], 1), torch.stack([Y, Y], 1)
    per_class = torch.stack([dice_loss(logits[:, c], targets[:, c]) for c in range(2)])
    torch.testing.assert_close(dice_loss(logits, targets, average="macro"), per_class.mean())
    with pytest.raises(ValueError, match="average must be"):
        dice_loss(logits, targets, average="weighted")
    with pytest.raises(ValueError, match="smoothing"):
        dice_loss(logits, targets, smoothing=-1)


def test_one_example_of_several_classes_has_a_ratio_for_each():
    """(C,), for which a sum over no dimension would be one over all."""
    logits, targets = double([2, -1, 0.5]), torch.tensor([1, 0, -100])
    p = logits.sigmoid()
    expected = torch.stack([1 - (2 * p[0] + 1) / (2 + p[0]), 1 - 1 / (1 + p[1]), p.new_zeros(())]).mean()
    torch.testing.assert_close(dice_loss(logits, targets, average="macro"), expected)
    torch.testing.assert_close(
        dice_loss(logits, targets, average="macro"), dice_loss(logits[None], targets[None], average="macro")
    )
    one, row = RunningF1(3).double(), RunningF1(3).double()
    f1 = one(logits, targets)
    assert f1.shape == (3,) and torch.equal(f1, row(logits[None], targets[None]))
    with pytest.raises(ValueError, match=r"logits \(\.\.\., 3\), not \(2,\)"):
        one(logits[:2], targets[:2])
    with pytest.raises(ValueError, match="not a scalar"):
        dice_loss(logits[0], targets[0], average="macro")


@pytest.mark.parametrize("average", ["micro", "macro"])
@pytest.mark.parametrize("smoothing", [0, 1.0])
@pytest.mark.parametrize("shape", [(2, 0), (0, 3), (0,)])
def test_dice_of_nothing_is_an_attached_zero(shape, smoothing, average):
    logits = torch.zeros(shape, requires_grad=True)
    loss = dice_loss(logits, torch.zeros(shape), smoothing=smoothing, average=average)
    loss.backward()
    assert loss == 0 and logits.grad.shape == shape
    running = RunningF1(shape[-1])
    assert running(logits, torch.zeros(shape)).shape == shape[-1:]


def test_logit_adjustment_oracle():
    logits, label, log_prior = double([[2, 1, 0]]), torch.tensor([2]), double([0.7, 0.2, 0.1]).log()
    for tau, expected in ((0.0, 2.40760596444), (1.0, 4.0631970827), (1.5, 4.98042139044)):
        assert_values(logit_adjusted_cross_entropy(logits, label, log_prior, tau=tau), expected)
        slow = reference.logit_adjusted_reference(logits, label, log_prior.exp(), tau=tau)
        torch.testing.assert_close(logit_adjusted_cross_entropy(logits, label, log_prior, tau=tau), slow.mean())


def test_logit_adjustment_at_its_optimum_predicts_beyond_the_prior():
    """Post hoc and trained-in are one thing: f = log p(y|x) - log p(y) minimizes it, up to a constant."""
    torch.manual_seed(0)
    joint = torch.rand(5, 3, dtype=torch.float64)
    prior, posterior = joint.sum(0) / joint.sum(), joint / joint.sum(1, keepdim=True)
    rows, labels = torch.meshgrid(torch.arange(5), torch.arange(3), indexing="ij")

    def expected_loss(f):
        losses = logit_adjusted_cross_entropy(f[rows], labels, prior.log(), reduction="none")
        return (joint * losses).sum()

    assert grad_of(expected_loss, posterior.log() - prior.log()).abs().max() < 1e-12


def test_class_log_prior():
    torch.testing.assert_close(
        class_log_prior(torch.tensor([7, 2, 1]), smoothing=0).exp(), torch.tensor([0.7, 0.2, 0.1])
    )
    torch.testing.assert_close(class_log_prior(torch.tensor([3, 0])).exp(), torch.tensor([0.8, 0.2]))
    with pytest.raises(ValueError, match="count 0"):
        class_log_prior(torch.tensor([3, 0]), smoothing=0)
    with pytest.raises(ValueError, match=r"counts \(C,\)"):
        class_log_prior(torch.tensor([3, -1]))
    with pytest.raises(ValueError, match=r"log_prior must be \(3,\)"):
        logit_adjusted_cross_entropy(LOGITS, LABELS, torch.zeros(4))


def test_class_balanced_weights_oracle():
    counts = torch.tensor([1000, 100, 10])
    for beta, expected in (
        (0.9, [0.848568317976, 0.848590857736, 1.30284082429]),
        (0.99, [0.230147159756, 0.363010984627, 2.40684185562]),
        (0.999, [0.0421603980443, 0.280000144617, 2.67783945734]),
        (0.9999, [0.0283624011447, 0.271255102044, 2.70038249681]),
    ):
        assert_values(class_balanced_weights(counts, beta=beta), expected, rel=1e-6)
    inverse = [0.027027027027, 0.27027027027, 2.7027027027]
    assert_values(class_balanced_weights(counts, beta=1 - 1e-12), inverse, rel=1e-5)
    assert class_balanced_weights(counts, beta=0).tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="count 0"):
        class_balanced_weights(torch.tensor([5, 0]))
    with pytest.raises(ValueError, match="beta must be"):
        class_balanced_weights(counts, beta=1)


def rare_batch():
    torch.manual_seed(0)
    return torch.randn(7, 3, dtype=torch.float64), (torch.rand(7, 3) < 0.3).long()


def of_a_rank() -> list[torch.Tensor]:
    logits, targets = rare_batch()
    mine = slice(0, 5) if distributed.rank() == 0 else slice(5, 7)
    logits = logits.requires_grad_()
    dice = dice_loss(logits[mine], targets[mine], average="macro")
    dice.backward()
    weighted = f1_weighted_bce(logits[mine], targets[mine], reduction="sum")
    running = RunningF1(3).double()(logits[mine], targets[mine])
    return [dice.detach(), distributed.all_reduce_mean(logits.grad), distributed.all_reduce_sum(weighted), running]


def test_dice_and_f1_of_two_ranks_are_one_process():
    logits, targets = rare_batch()
    expected = [
        dice_loss(logits, targets, average="macro"),
        grad_of(lambda z: dice_loss(z, targets, average="macro"), logits),
        f1_weighted_bce(logits, targets, reduction="sum"),
        RunningF1(3).double()(logits, targets),
    ]
    for results in run_ranks(of_a_rank):
        torch.testing.assert_close(results, expected, rtol=1e-12, atol=1e-14)
