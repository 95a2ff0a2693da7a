"""Margin softmax: oracle, numerical traps, and the margin that makes retrieval perfect."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from suzoo.losses import CosineLinear, am_softmax_loss, arcface_loss, estimate_margin, metric_distance
from tests.losses.helpers import assert_values, double, grad_of
from tests.reference.margin_softmax import am_softmax_loss_reference, arcface_loss_reference

COSINES, LABELS = double([[0.6, 0.1, -0.3], [0.2, 0.7, 0.5]]), torch.tensor([0, 2])


def test_margin_softmax_oracle():
    for scale, margin, expected in (
        (30, 0.35, [0.0110478123547, 16.5000003742]),
        (64, 0.35, [6.77264430039e-05, 35.2]),
        (20, 0.2, [0.00247651461005, 8.00038079005]),
    ):
        assert_values(am_softmax_loss(COSINES, LABELS, scale=scale, margin=margin, reduction="none"), expected)
    assert_values(arcface_loss(COSINES, LABELS, reduction="none"), [0.0618125854301, 43.2898185414])
    beyond = arcface_loss(double([[-0.95, 0.0]]), torch.tensor([0]), scale=1.0)
    assert_values(beyond, math.log1p(math.exp(1.1897127693)))  # cosine -0.95 was lowered to -1.18971


@pytest.mark.parametrize(
    ("ours", "slow"), [(am_softmax_loss, am_softmax_loss_reference), (arcface_loss, arcface_loss_reference)]
)
def test_margin_softmax_is_the_slow_form(ours, slow):
    torch.manual_seed(0)
    cosines, labels = torch.rand(9, 6, dtype=torch.float64) * 1.98 - 0.99, torch.randint(0, 6, (9,))
    options = {"scale": 16.0, "margin": 0.4}
    torch.testing.assert_close(ours(cosines, labels, reduction="none", **options), slow(cosines, labels, **options))
    torch.testing.assert_close(
        grad_of(lambda c: ours(c, labels, reduction="sum", **options), cosines),
        grad_of(lambda c: slow(c, labels, **options), cosines),
    )


def test_margin_zero_is_scaled_cross_entropy():
    expected = F.cross_entropy(30 * COSINES, LABELS)
    assert am_softmax_loss(COSINES, LABELS, margin=0.0) == expected
    torch.testing.assert_close(arcface_loss(COSINES, LABELS, scale=30.0, margin=0.0), expected)


@pytest.mark.parametrize("scale", [30.0, 48.0, 64.0])
def test_am_softmax_is_right_where_the_subtracting_form_fails(scale):
    """log Z + log(1 - exp(s t - log Z)) cancels: -0.03 at scale 30, -inf at 48 and 64, in float32."""
    loss = am_softmax_loss(torch.tensor([[0.95, 0.1, -0.2]]), torch.tensor([0]), scale=scale)
    assert 0 <= loss <= 1e-6


def test_arcface_gradient_is_finite_at_cosine_one():
    cosines = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.99999, 0.0]])
    grad = grad_of(lambda c: arcface_loss(c, torch.tensor([0, 0, 0]), scale=1.0, reduction="sum"), cosines)
    assert grad.isfinite().all() and grad[0, 0] == 0


def test_one_class_is_nothing_to_learn():
    for loss in (am_softmax_loss, arcface_loss):
        assert loss(torch.tensor([[0.3]]), torch.tensor([0])) == 0


def test_cosine_linear_is_the_cosine_and_trains_under_autocast():
    torch.manual_seed(0)
    head = CosineLinear(8, 3)
    hidden = torch.randn(2, 5, 8)
    expected = F.cosine_similarity(hidden[:, :, None], head.weight, dim=-1)
    torch.testing.assert_close(head(hidden), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cosines = head(hidden)
    assert cosines.dtype == torch.float32
    torch.testing.assert_close(cosines, expected)
    assert head.bfloat16()(hidden.bfloat16()).dtype == torch.float32
    copy = CosineLinear(8, 3)
    copy.load_state_dict(head.state_dict())
    torch.testing.assert_close(copy(hidden), head(hidden))
    am_softmax_loss(copy(hidden), torch.zeros(2, 5, dtype=torch.long)).backward()
    assert copy.weight.grad.isfinite().all()


def test_estimated_margin_of_points_on_a_circle():
    """Members at a known angle from their center."""
    centers = torch.tensor([[1.0, 0.0], [0.0, 3.0]])  # lengths do not count
    spread = 0.2
    angles = torch.tensor([spread, -spread, math.pi / 2 + spread, math.pi / 2 - spread])
    points = torch.stack([angles.cos(), angles.sin()], 1) * torch.tensor([[1.0], [2.0], [5.0], [0.1]])
    labels = torch.tensor([0, 0, 1, 1])
    assert estimate_margin(points, labels, centers, geometry="angle") == pytest.approx(2 * spread, rel=1e-5)
    chord = estimate_margin(points, labels, centers)
    assert chord == pytest.approx(2 * math.sqrt(1 - math.cos(spread)), rel=1e-5)
    ignored = torch.tensor([0, -100, -100, 1])
    assert estimate_margin(points, ignored, centers, geometry="angle") == pytest.approx(2 * spread, rel=1e-5)
    assert estimate_margin(points, torch.full((4,), -100), centers) == 0.0


@pytest.mark.parametrize("geometry", ["chord", "angle"])
def test_points_that_keep_the_margin_are_retrieved_perfectly(geometry):
    """The claim of kexue.fm/archives/8656, from data drawn blindly and then filtered by the condition."""
    torch.manual_seed(0)
    centers = torch.eye(6, dtype=torch.float64)
    labels = torch.arange(6).repeat_interleave(200)
    points = F.normalize(centers[labels] + 0.4 * torch.randn(1200, 6, dtype=torch.float64), dim=1)
    distances = metric_distance(points @ centers.T, geometry=geometry)
    own = distances.gather(1, labels[:, None])[:, 0]
    other = distances.scatter(1, labels[:, None], torch.inf).amin(1)

    def recall(keep):
        similarity = (points[keep] @ points[keep].T).fill_diagonal_(-2)
        return (labels[keep][similarity.argmax(1)] == labels[keep]).double().mean().item()

    # own + d(z', c) + d(z'', c) < other for any three that are kept: the largest radius that grants it
    radius = max(r for r in own.tolist() if ((own + 2 * r < other) | (own > r)).all())
    keep = own <= radius
    assert keep.sum() > 40 and recall(keep) == 1
    assert recall(torch.ones_like(keep)) < 1  # the margin did it


def test_chord_is_a_metric_and_one_minus_cosine_is_not():
    torch.manual_seed(0)
    points = F.normalize(torch.randn(60, 3, dtype=torch.float64), dim=1)
    cosines = (points @ points.T).clamp(-1, 1)

    def violations(distance):
        return int((distance[:, None, :] > distance[:, :, None] + distance[None] + 1e-6).sum())

    assert violations(1 - cosines) > 0
    assert violations(metric_distance(cosines)) == violations(metric_distance(cosines, geometry="angle")) == 0
    assert metric_distance(double([1.0])).item() == 0
    assert grad_of(metric_distance, double([1.0])).item() == 0
    with pytest.raises(ValueError, match="geometry must be"):
        metric_distance(cosines, geometry="cosine")


def test_margin_softmax_in_the_metric_is_the_loss_of_the_article():
    distance, margin, scale = metric_distance(COSINES), 0.2, 10.0
    rows = torch.arange(2)
    gaps = scale * (distance[rows, LABELS][:, None] + margin - distance)
    gaps[rows, LABELS] = 0
    torch.testing.assert_close(
        am_softmax_loss(-distance, LABELS, scale=scale, margin=margin, reduction="none"), gaps.logsumexp(1)
    )
