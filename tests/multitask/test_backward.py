"""multitask_backward: the combined gradient, the heads, DDP and FSDP2 on two ranks."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from suzoo import distributed
from suzoo.multitask import automatic_weight_decay, inverse_gradient_norm, min_norm, multitask_backward, pcgrad
from suzoo.multitask import primary_auxiliary as primary
from suzoo.regularizers import fgm, gradient_penalty
from tests.ranks import run_ranks


class TwoTasks(nn.Module):
    """An encoder with a classification and a regression head, and one weight of the encoder that only one task uses."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
        self.classify = nn.Linear(3, 2).double()
        self.regress = nn.Linear(3, 1).double()

    def forward(self, x, classes, values):
        hidden = self.encoder(x)
        return F.cross_entropy(self.classify(hidden), classes), 5 * F.mse_loss(self.regress(hidden)[:, 0], values)


def data():
    torch.manual_seed(1)
    return torch.randn(8, 4, dtype=torch.float64), torch.arange(8) % 2, torch.randn(8, dtype=torch.float64)


def flat(tensors) -> torch.Tensor:
    return torch.cat([t.flatten() for t in tensors])


@pytest.mark.parametrize("weighting", [min_norm, primary, inverse_gradient_norm, pcgrad])
def test_multitask_backward_combines_the_gradients_of_the_shared_and_leaves_the_heads(weighting):
    model = TwoTasks()
    losses = model(*data())
    shared = list(model.encoder.parameters())
    gradients = torch.stack([flat(torch.autograd.grad(loss, shared, retain_graph=True)) for loss in losses])
    heads = [*model.classify.parameters(), *model.regress.parameters()]
    expected_heads = torch.autograd.grad(sum(losses), heads, retain_graph=True)
    expected = weighting(gradients @ gradients.T)
    weights = multitask_backward(losses, shared, weighting)
    torch.testing.assert_close(weights, expected, rtol=1e-6, atol=1e-7)  # sent between ranks in float32
    torch.testing.assert_close(flat(p.grad for p in shared), weights @ gradients)
    torch.testing.assert_close(flat(p.grad for p in heads), flat(expected_heads))


def test_multitask_backward_adds_to_what_is_there():
    model = TwoTasks()
    multitask_backward(model(*data()), model.encoder.parameters(), min_norm)
    once = [p.grad.clone() for p in model.parameters()]
    multitask_backward(model(*data()), model.encoder.parameters(), min_norm)
    torch.testing.assert_close([p.grad for p in model.parameters()], [2 * grad for grad in once])


def test_multitask_backward_of_parameters_that_one_task_does_not_use():
    model = TwoTasks()
    model.encoder[0].requires_grad_(False)
    everything = list(model.parameters())  # the heads count as shared: each is missing from one task
    multitask_backward(model(*data()), everything, lambda gramian: torch.tensor([2.0, 3.0]))
    losses = model(*data())
    trained = [p for p in everything if p.requires_grad]
    expected = torch.autograd.grad(2 * losses[0] + 3 * losses[1], trained)
    torch.testing.assert_close([p.grad for p in trained], list(expected))
    assert model.encoder[0].weight.grad is None


def test_multitask_backward_counts_a_parameter_listed_twice_once():
    model, twin = TwoTasks(), TwoTasks()
    shared = list(model.encoder.parameters())
    weights = multitask_backward(model(*data()), [*shared, shared[0], *shared], inverse_gradient_norm)
    torch.testing.assert_close(
        weights, multitask_backward(twin(*data()), twin.encoder.parameters(), inverse_gradient_norm)
    )
    torch.testing.assert_close([p.grad for p in model.parameters()], [p.grad for p in twin.parameters()])


def test_multitask_backward_passes_on_what_is_not_finite():
    model = TwoTasks()
    first, second = model(*data())
    weights = multitask_backward([first, second * torch.inf], model.encoder.parameters(), min_norm)
    assert weights.tolist() == [1, 1] and not flat(p.grad for p in model.encoder.parameters()).isfinite().all()


@pytest.mark.parametrize("weighting", [min_norm, primary, inverse_gradient_norm, pcgrad])
@pytest.mark.parametrize(
    "sizes", [(1e38, 1e38), (1e20, 1e20), (1e-30, 1e-30), (1e-40, 1e-40), (1e20, 1e-30), (1e-40, 1e38)]
)
def test_multitask_backward_of_gradients_of_any_size(weighting, sizes):
    """Squares of 1e20 and of 1e-30 leave float32, and so does the weight of a gradient of 1e-40."""
    directions = torch.tensor([[1.0, 2.0], [-2.0, 0.5]], dtype=torch.float64) / 4
    theta = nn.Parameter(torch.zeros(2))
    grads = (torch.tensor(sizes, dtype=torch.float64)[:, None] * directions).float()
    losses = [(theta * grad).sum() for grad in grads]
    weights = multitask_backward(losses, [theta], weighting)
    exact = [[Fraction(float(g)) for g in grad] for grad in grads]
    expected = two_task_weights(weighting, exact)
    assert weights.tolist() == pytest.approx([float(w) for w in expected], rel=1e-6)
    combined = [sum(w * g[i] for w, g in zip(expected, exact, strict=True)) for i in range(2)]
    largest = max(float(abs(w * g)) for w, grad in zip(expected, exact, strict=True) for g in grad)
    assert theta.grad.tolist() == pytest.approx([float(c) for c in combined], rel=1e-5, abs=1e-6 * largest + 3e-45)


def two_task_weights(weighting, gradients) -> list[Fraction]:
    """The four weightings of two opposed gradients, in rational numbers."""
    a, b = gradients
    dot = lambda x, y: sum(p * q for p, q in zip(x, y, strict=True))  # noqa: E731
    aa, ab, bb = dot(a, a), dot(a, b), dot(b, b)
    assert ab < 0
    if weighting is min_norm:
        share = (bb - ab) / (aa - 2 * ab + bb)
        return [share, 1 - share]
    if weighting is primary:
        return [Fraction(1), -ab / bb]
    if weighting is pcgrad:
        return [1 - ab / aa, 1 - ab / bb]
    return [inverse_root(aa), inverse_root(bb)]


def inverse_root(x: Fraction) -> Fraction:
    return 1 / Fraction((Decimal(x.numerator) / Decimal(x.denominator)).sqrt())


def test_multitask_backward_rejects_bad_input():
    model = TwoTasks()
    losses = model(*data())
    with pytest.raises(ValueError, match="at least 2 losses"):
        multitask_backward(losses[:1], model.encoder.parameters(), min_norm)
    with pytest.raises(ValueError, match="1 shared parameter"):
        multitask_backward(losses, [], min_norm)
    with pytest.raises(ValueError, match="depends on parameters"):
        multitask_backward([losses[0], losses[1].detach()], model.encoder.parameters(), min_norm)
    with pytest.raises(ValueError, match=r"returned \(3,\) for 2 losses"):
        multitask_backward(losses, model.encoder.parameters(), lambda gramian: torch.ones(3))
    assert all(p.grad is None for p in model.parameters())


def test_primary_auxiliary_descends_on_the_primary_loss_where_the_sum_does_not():
    """The auxiliary task pulls the other way, ten times as hard."""
    theta = torch.tensor([0.0, 0.0], dtype=torch.float64)
    main = lambda t: (t[0] - 1) ** 2  # noqa: E731
    auxiliary = lambda t: 10 * ((t[0] + 1) ** 2 + (t[1] - 1) ** 2)  # noqa: E731
    ends = {}
    for name in ("sum", "primary"):
        t = theta.clone().requires_grad_()
        for _ in range(200):
            t.grad = None
            if name == "sum":
                (main(t) + auxiliary(t)).backward()
            else:
                multitask_backward([main(t), auxiliary(t)], [t], primary)
            before = main(t).item()
            with torch.no_grad():
                t -= 0.01 * t.grad
            if name == "primary":
                assert main(t).item() <= before + 1e-12
        ends[name] = main(t).item()
    assert ends["primary"] < main(theta) < ends["sum"]


def test_automatic_weight_decay_oracle():
    theta = nn.Parameter(torch.tensor([1, -2, 0.5], dtype=torch.float64))
    theta.grad = torch.tensor([-0.4, 0.1, 0.3], dtype=torch.float64)
    unused = nn.Parameter(torch.ones(2))
    assert automatic_weight_decay([theta, unused, theta]) == pytest.approx(0.0857142857)
    assert theta.grad.tolist() == pytest.approx([-0.3142857143, -0.0714285714, 0.3428571429])
    assert (theta.grad @ theta).item() == pytest.approx(0, abs=1e-12)
    theta.grad = theta.detach().clone()  # the loss shrinks the weights already
    assert automatic_weight_decay([theta]) == 0 and torch.equal(theta.grad, theta.detach())
    assert automatic_weight_decay([unused]) == 0


def mine() -> tuple:
    rows = slice(0, 4) if distributed.rank() == 0 else slice(4, 8)
    return tuple(x[rows] for x in data())


def test_multitask_backward_of_adversarial_losses():
    """A disturbance is a leaf of the graph with the shape of the batch: no parameter, and no gradient for it."""
    model, embedding = TwoTasks(), nn.Embedding(9, 4).double()
    ids = torch.arange(8)

    def loss(task):
        return model(embedding(ids[None])[0], *data()[1:])[task]

    losses = [fgm(lambda t=task: loss(t), embedding) for task in range(2)]
    losses.append(gradient_penalty(lambda: loss(0), embedding))
    shared = [*model.encoder.parameters(), *embedding.parameters()]
    weights = multitask_backward(losses, shared, min_norm)
    assert weights.sum().item() == pytest.approx(1) and embedding.weight.grad.isfinite().all()


def under_ddp() -> list[torch.Tensor]:
    model = DistributedDataParallel(TwoTasks())
    for _ in range(2):  # the reducer must be in order for a second step
        model.zero_grad()
        weights = multitask_backward(model(*mine()), model.module.encoder.parameters(), min_norm)
    return [weights, *(p.grad for p in model.parameters())]


def under_fsdp2() -> list[torch.Tensor]:
    model = TwoTasks()
    fully_shard(model.encoder)
    fully_shard(model)
    for _ in range(2):
        model.zero_grad()
        weights = multitask_backward(model(*mine()), list(model.encoder.parameters()), min_norm)
    return [weights, *(p.grad.full_tensor() for p in model.parameters())]


@pytest.mark.parametrize("wrapped", [under_ddp, under_fsdp2])
def test_multitask_backward_of_two_ranks_is_that_of_one_process(wrapped):
    model = TwoTasks()
    weights = multitask_backward(model(*data()), model.encoder.parameters(), min_norm)
    for results in run_ranks(wrapped):
        torch.testing.assert_close(results, [weights, *(p.grad for p in model.parameters())], rtol=1e-6, atol=1e-8)
