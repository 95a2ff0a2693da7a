"""Reversed, scaled and frozen gradients; one-loss adversarial training against two optimizers."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from suzoo.regularizers import frozen_call, one_loss_gan, reverse_gradient, scale_gradient


def test_reversed_and_scaled_gradients():
    x = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    for routed, factor in ((reverse_gradient(x), -1), (reverse_gradient(x, 0.3), -0.3), (scale_gradient(x, 2.0), 2)):
        assert torch.equal(routed, x)
        (grad,) = torch.autograd.grad((routed**2).sum(), x)
        torch.testing.assert_close(grad, factor * 2 * x)
    compiled = torch.compile(lambda z: (reverse_gradient(z, 0.5) ** 2).sum(), backend="aot_eager", fullgraph=True)
    (grad,) = torch.autograd.grad(compiled(x), x)
    torch.testing.assert_close(grad, -x)


def test_frozen_call_reaches_the_input_and_nothing_of_the_module():
    torch.manual_seed(0)
    judge = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 1))
    before = copy.deepcopy(judge.state_dict())
    x = torch.randn(6, 3, requires_grad=True)
    frozen_call(judge, x).sum().backward()
    frozen_grad, x.grad = x.grad, None
    assert all(p.grad is None for p in judge.parameters())
    assert all(torch.equal(before[name], value) for name, value in judge.state_dict().items())
    judge(x).sum().backward()
    torch.testing.assert_close(frozen_grad, x.grad)


class CheckpointedJudge(nn.Module):
    def __init__(self, use_reentrant: bool):
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.norm, self.use_reentrant = nn.Linear(3, 4), nn.BatchNorm1d(4), use_reentrant

    def body(self, x):
        return self.norm(x @ self.linear.weight.T).tanh()

    def forward(self, x):
        return checkpoint(self.body, x, use_reentrant=self.use_reentrant)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_frozen_call_and_checkpointing(use_reentrant):
    """A region inside the module would run again unfrozen; one around the call is as good as none."""
    judge, x = CheckpointedJudge(use_reentrant), torch.randn(6, 3, requires_grad=True)
    before = copy.deepcopy(judge.state_dict())
    with pytest.raises(ValueError, match="cannot freeze a checkpointed region"):
        frozen_call(judge, x).sum().backward()
    with pytest.raises(ValueError, match="cannot freeze a checkpointed region"):
        one_loss_gan(judge, x.detach(), x)
    judge.load_state_dict(before)
    checkpoint(lambda x: frozen_call(judge.linear, x), x, use_reentrant=use_reentrant).sum().backward()
    torch.testing.assert_close(x.grad, judge.linear.weight.sum(0).detach().expand(6, 3))
    assert all(p.grad is None for p in judge.parameters())


def players(dropout: float = 0.0):
    torch.manual_seed(1)
    generator = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    judge = nn.Sequential(nn.Linear(3, 5), nn.Dropout(dropout), nn.LeakyReLU(0.2), nn.Linear(5, 1)).double()
    return generator, judge, torch.randn(6, 3, dtype=torch.float64), torch.randn(6, 2, dtype=torch.float64)


def grads(loss, *modules):
    return torch.autograd.grad(loss, [p for module in modules for p in module.parameters()])


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_one_loss_gan_has_the_gradients_of_two_optimizers(dropout):
    generator, judge, real, noise = players(dropout)
    fake = generator(noise)
    torch.manual_seed(7)
    critic = F.relu(1 + judge(real)).mean() + F.relu(1 - judge(fake.detach())).mean()
    expected = grads(critic, judge) + grads(0.7 * judge(fake).mean(), generator)
    torch.manual_seed(7)
    loss = one_loss_gan(judge, real, generator(noise), weight=0.7)
    torch.testing.assert_close(loss, critic, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(grads(loss, judge, generator), expected, rtol=1e-12, atol=1e-14)


def test_the_published_difference_leaks_into_the_judge_under_dropout():
    """Why `one_loss_gan` freezes the judge instead of subtracting a second pass."""
    generator, judge, _, noise = players(dropout=0.5)
    fake = generator(noise)
    leak = (judge(fake) - judge(fake.detach())).mean()
    assert leak.abs() > 1e-3 and max(g.abs().max() for g in grads(leak, judge)[:1]) > 1e-3


def test_domain_adversarial_training_in_one_loss():
    """Reversal is two optimizers: the head learns the domain, the encoder unlearns it."""
    torch.manual_seed(0)
    encoder, head = nn.Linear(4, 3).double(), nn.Linear(3, 2).double()
    x, domains = torch.randn(6, 4, dtype=torch.float64), torch.tensor([0, 1, 0, 1, 1, 0])
    reversed_ = grads(F.cross_entropy(head(reverse_gradient(encoder(x), 0.3)), domains), encoder, head)
    hidden = encoder(x)
    routed = F.cross_entropy(head(hidden.detach()), domains) - 0.3 * F.cross_entropy(frozen_call(head, hidden), domains)
    torch.testing.assert_close(reversed_, grads(routed, encoder, head), rtol=1e-12, atol=1e-14)


def test_domain_adversarial_training_removes_the_domain():
    """Task and domain are two directions of the input; afterwards a probe cannot tell the domain."""
    torch.manual_seed(0)
    task, domain = torch.randint(0, 2, (400,)), torch.randint(0, 2, (400,))
    x = torch.randn(400, 6) * 0.3
    x[:, 0] += 2.0 * task - 1
    x[:, 1] += 2.0 * domain - 1

    def train(factor: float) -> tuple[float, float]:
        torch.manual_seed(1)
        encoder, task_head, domain_head = nn.Linear(6, 2), nn.Linear(2, 2), nn.Linear(2, 2)
        parameters = [*encoder.parameters(), *task_head.parameters(), *domain_head.parameters()]
        optimizer = torch.optim.SGD(parameters, lr=0.3)
        for _ in range(400):
            hidden = encoder(x)
            loss = F.cross_entropy(task_head(hidden), task)
            loss = loss + F.cross_entropy(domain_head(reverse_gradient(hidden, factor)), domain)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        hidden = encoder(x).detach()
        design = torch.cat([hidden, torch.ones(400, 1)], 1)  # a least-squares probe
        accuracy = []
        for labels in (task, domain):
            weights = torch.linalg.lstsq(design, 2.0 * labels[:, None] - 1).solution
            accuracy.append(((design @ weights)[:, 0] > 0).eq(labels.bool()).float().mean().item())
        return tuple(accuracy)

    plain_task, plain_domain = train(0.0)
    adversarial_task, adversarial_domain = train(1.0)
    assert plain_task > 0.97 and adversarial_task > 0.97
    assert plain_domain > 0.9 and adversarial_domain < 0.7
