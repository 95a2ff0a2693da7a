from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard

from suzoo.optimizers import Accumulated, AccumulatedSGD, ParameterSearch
from suzoo.optimizers.parameter_search import mixture_log_density, search_weights
from tests.optimizers._run import random_grads, tensor
from tests.ranks import run_ranks

GUIDE = 0.5 * tensor([-0.6, 0.8])
NOISE = tensor([[0.1, -0.2], [-0.3, 0.1], [0.05, 0.25], [0.2, 0.0]])
DELTAS = NOISE + GUIDE * tensor([[1.0], [0.0], [1.0], [0.0]])
LOG_DENSITY = [-0.0324718753, -0.0474968750, -0.1319975995, -0.1082279619]


def log_density() -> Tensor:
    return mixture_log_density(DELTAS.square().sum(1), DELTAS @ GUIDE, GUIDE @ GUIDE)


def test_mixture_log_density_oracle_values():
    torch.testing.assert_close(log_density(), tensor(LOG_DENSITY), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("beta", "expected"),
    [
        (1.0, [0.2813948941, 0.2338743486, 0.2812614669, 0.2034692904]),
        (100.0, [9.9994984953e-01, 2.0922513454e-09, 5.0148375974e-05, 4.5824675014e-18]),
    ],
)
def test_search_weights_oracle_values(beta, expected):
    weights = search_weights(1.0, tensor([0.7, 0.9, 0.8, 1.1]), log_density(), beta=beta)
    torch.testing.assert_close(weights, tensor(expected), rtol=1e-8, atol=0)
    if beta == 1:
        torch.testing.assert_close(weights @ DELTAS, tensor([-0.1560627921, 0.2624863672]), rtol=0, atol=1e-9)


def test_mixture_log_density_where_the_exponentials_underflow():
    value = mixture_log_density(tensor([20_000.0]), tensor([0.3]), tensor(0.2))
    assert value.item() == pytest.approx(math.log(0.5) - 10_000 + math.log(1 + math.exp(0.2)))


class Spy:
    """A task loss that notes the parameters it is shown; `values` are what it returns."""

    def __init__(self, params, values):
        self.params, self.values, self.seen = params, iter(values), []

    def __call__(self) -> float:
        self.seen.append([p.detach().clone() for p in self.params])
        return next(self.values)


def search_once(values, **options):
    """One step with SGD of rate 1 on two tensors: (candidates' changes, guide, change by the step, result)."""
    params = [nn.Parameter(x) for x in random_grads((3, 2), 1, seed=4) + random_grads((4,), 1, seed=5)]
    start = [p.detach().clone() for p in params]
    for p, g in zip(params, random_grads((3, 2), 1, seed=6) + random_grads((4,), 1, seed=7), strict=True):
        p.grad = 0.1 * g
    guide = torch.cat([-p.grad.flatten() for p in params])
    search = ParameterSearch(torch.optim.SGD(params, lr=1.0), max_grad_norm=None, **options)
    spy = Spy(params, values)
    assert search.step(spy) == search.result.current  # as torch: the value of the closure
    result = search.result
    flat = lambda tensors: torch.cat([x.detach().flatten() for x in tensors])  # noqa: E731
    deltas = torch.stack([flat(seen) - flat(start) for seen in spy.seen[1:]])
    assert torch.equal(flat(spy.seen[0]), flat(start))
    return deltas, guide, flat(params) - flat(start), result


@pytest.mark.parametrize("density", ["unit", "true"])
@pytest.mark.parametrize("noise_scale", ["uniform", "constant"])
def test_parameter_search_is_the_estimator_with_stored_candidates(noise_scale, density):
    values = [1.0, 0.7, 0.9, 0.8, 1.1, 0.6]
    noise = 0.5
    deltas, guide, change, result = search_once(
        values, num_candidates=5, beta=3.0, noise=noise, noise_scale=noise_scale, density=density
    )
    sigma = torch.full((10,), noise).double()
    if noise_scale == "uniform":
        sigma[:6] *= guide[:6].abs().mean()
        sigma[6:] *= guide[6:].abs().mean()
    if density == "unit":
        sigma = torch.ones(10).double()
    first = torch.exp(-0.5 * (deltas / sigma).square().sum(1))
    second = torch.exp(-0.5 * ((deltas - guide) / sigma).square().sum(1))
    weights = torch.softmax(3.0 * (1.0 - tensor(values[1:])) - (0.5 * first + 0.5 * second).log(), 0)
    torch.testing.assert_close(tensor(result.weights), weights)
    torch.testing.assert_close(change, weights @ deltas)
    assert result.current == 1.0 and result.candidates == values[1:]


def test_one_candidate_is_taken_whatever_its_loss():
    deltas, _, change, result = search_once([1.0, 99.0], num_candidates=1)
    assert result.weights == [1.0]
    torch.testing.assert_close(change, deltas[0])


def test_candidates_alternate_between_guide_and_nothing():
    deltas, guide, _, _ = search_once([1.0] * 5, num_candidates=4, noise=1e-9)
    torch.testing.assert_close(deltas, torch.stack([guide, 0 * guide] * 2), rtol=0, atol=1e-8)


def test_beta_zero_forgets_the_task():
    weights = [search_once([1.0, *values], beta=0.0)[3].weights for values in ([0, 1, 2, 3], [3, 2, 1, 0])]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_parameters_come_back_to_the_same_bits(dtype):
    param = nn.Parameter(torch.randn(50, generator=torch.Generator().manual_seed(0)).to(dtype))
    before = param.detach().clone()
    param.grad = torch.ones_like(param)
    search = ParameterSearch(torch.optim.SGD([param], lr=0.0), noise_scale="constant")
    search.step(lambda: float(param.detach().float().square().sum()))
    assert torch.equal(param, before)
    with pytest.raises(KeyError):  # also when the task fails
        search.step(lambda: {}["missing"] if torch.equal(param, before) is False else 1.0)
    assert torch.equal(param, before)


def test_parameter_search_lowers_a_loss_without_gradient():
    """The number of wrong signs: the differentiable loss points elsewhere, only the search finds it."""
    torch.manual_seed(0)
    target = torch.randn(20).sign()

    def train(beta: float) -> float:
        param = nn.Parameter(torch.zeros(20))
        search = ParameterSearch(
            torch.optim.SGD([param], lr=1.0), num_candidates=16, beta=beta, noise=0.3, noise_scale="constant"
        )
        for _ in range(60):
            param.grad = torch.zeros(20)
            search.step(lambda: float((param.detach().sign() != target).sum()))
        return float((param.sign() != target).sum())

    assert train(beta=10.0) <= 2 < train(beta=0.0)


def test_a_loop_that_steps_by_itself_sets_the_task_loss_before():
    param = torch.nn.Parameter(torch.ones(3))
    search = ParameterSearch(torch.optim.SGD([param], 0.1))
    param.grad = torch.ones(3)
    with pytest.raises(ValueError, match="set search"):
        search.step()
    search.task_loss = lambda: float(param.square().sum())
    assert search.step() == search.result.current == 3.0


def test_parameter_search_resumes():
    def build():
        param = nn.Parameter(torch.ones(6))
        return param, ParameterSearch(torch.optim.Adam([param], lr=0.1), noise_scale="constant", noise=0.1)

    def train(param, search, count):
        for _ in range(count):
            param.grad = param.detach().clone()
            search.step(lambda: float(param.detach().abs().sum()))

    param, search = build()
    train(param, search, 3)
    weights, state = param.detach().clone(), copy.deepcopy(search.state_dict())
    train(param, search, 3)
    resumed, second = build()
    with torch.no_grad():
        resumed.copy_(weights)
    second.load_state_dict(state)
    train(resumed, second, 3)
    assert torch.equal(resumed, param)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_candidates": 0}, "num_candidates"),
        ({"noise": 0.0}, "noise must"),
        ({"density": "exact"}, "density"),
        ({"beta": -1.0}, "beta"),
        ({"max_grad_norm": 0.0}, "max_grad_norm"),
    ],
)
def test_parameter_search_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        ParameterSearch(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1), **options)


def test_parameter_search_refuses_at_the_step():
    param = nn.Parameter(torch.zeros(1))
    search = ParameterSearch(torch.optim.SGD([param], lr=0.1))
    with pytest.raises(ValueError, match="backward first"):
        search.step(lambda: 1.0)
    param.grad = torch.ones(1)
    with pytest.raises(ValueError, match="must be finite"):
        search.step(lambda: math.nan)
    with pytest.raises(ValueError, match="keeps no gradient"):
        ParameterSearch(AccumulatedSGD([param], 0.1, accumulation_steps=2))
    with pytest.raises(ValueError, match="put Accumulated around ParameterSearch"):
        ParameterSearch(Accumulated(torch.optim.SGD([param], 0.1), 2))


def test_accumulated_around_parameter_search_searches_around_the_mean_gradient():
    results = []
    for parts in ([1.0], [3.0, -1.0]):
        param = nn.Parameter(torch.ones(6))
        search = ParameterSearch(torch.optim.SGD([param], lr=0.1), beta=10.0)
        search.task_loss = lambda param=param: float(param.detach().abs().sum())
        optimizer = Accumulated(search, len(parts))
        for _ in range(3):
            for part in parts:
                (part * param.square().sum()).backward()
                optimizer.step()
                optimizer.zero_grad()
        results.append(param.detach())
    torch.testing.assert_close(*results)
    assert (results[0] - 1).abs().max() > 0.01


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("max_grad_norm", [1.0, None])
def test_parameter_search_refuses_gradients_that_are_not_finite(value, max_grad_norm):
    params = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))]
    search = ParameterSearch(torch.optim.AdamW(params, lr=0.1), max_grad_norm=max_grad_norm)
    for param in params:
        param.grad = torch.ones_like(param)
    params[1].grad[0] = value
    with pytest.raises(ValueError, match="gradient that is not finite"):
        search.step(lambda: 1.0)
    assert all(bool((param == 1).all()) for param in params) and not search.state and search.num_steps == 0
    params[1].grad[0] = 1.0
    search.step(lambda: 1.0)
    assert not any(bool((param == 1).any()) for param in params)


def on_two_ranks() -> dict:
    """Replicated parameters stay equal although the ranks' task losses differ; shards get their own noise."""
    import torch.distributed as dist

    rank = dist.get_rank()
    param = nn.Parameter(torch.ones(6))
    search = ParameterSearch(torch.optim.SGD([param], lr=0.1), beta=10.0)
    for _ in range(3):
        param.grad = param.detach().clone()
        search.step(lambda: float(param.detach().abs().sum()) * (1 + rank))

    model = nn.Linear(4, 4, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)
    fully_shard(model)
    sharded = ParameterSearch(torch.optim.SGD(model.parameters(), lr=1.0), num_candidates=1, max_grad_norm=None)
    model(torch.ones(1, 4)).sum().backward()
    sharded.step(lambda: 0.0)
    result = {"replicated": param.detach(), "sharded": model.weight.full_tensor().detach()}

    if rank == 1:
        model.weight.grad.to_local()[0, 0] = math.nan
    with pytest.raises(ValueError, match="not finite"):
        sharded.step(lambda: 0.0)
    return result


def test_parameter_search_on_two_ranks():
    first, second = run_ranks(on_two_ranks)
    assert torch.equal(first["replicated"], second["replicated"])
    assert torch.equal(first["sharded"], second["sharded"])
    assert not torch.equal(first["sharded"][:2], first["sharded"][2:])
