"""Tensors of one shape that are updated as one, which accelerators do, are what they would be one by one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from suzoo.optimizers import AccumulatedAdamW, AdaFactor, AdaX, Lion, ParameterSearch, Tiger, _driver
from tests.optimizers._cases import CASES, set_grads

SHAPES = ((), (), (3,), (3,), (3,), (4, 5), (4, 5), (130, 129), (130, 129), (2, 3, 3), (2, 3, 3), (0, 3))
MAKERS = {
    **{name: case.make for name, case in CASES.items() if name != "Accumulated(Lion, 2)"},
    "lazy_adamw": lambda p, lr=0.03, **o: AccumulatedAdamW(p, lr, lazy=True, **o),
    "lazy Lion": lambda p, lr=0.03, **o: Lion(p, lr, lazy=True, weight_decay=0.1, **o),
}


def params_of(dtype: torch.dtype) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(7)
    return [
        nn.Parameter((0.1 * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)) for shape in SHAPES
    ]


def run(make, dtype: torch.dtype, **options) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    params = params_of(dtype)
    optimizer = make(params, **options)
    for step in range(6):
        for param in params:
            param.grad = None
        set_grads(params, step)
        for param in params[1::2]:
            if param.dim() > 1 and param.numel():
                param.grad[0] = 0  # a row that a lazy optimizer leaves alone
        optimizer.step()
    states = [value for param in params for value in optimizer.state[param].values() if isinstance(value, torch.Tensor)]
    return [param.detach() for param in params], states


@pytest.fixture
def stacked(monkeypatch):
    """Everything is stacked, as on an accelerator, and how many went together is counted."""
    together = []
    run_stacked = _driver.run_stacked

    def counting(jobs, function, *, moves):
        together.append(len(jobs))
        run_stacked(jobs, function, moves=moves)

    monkeypatch.setattr(_driver, "can_stack", lambda job: job.group["foreach"] is not False and job.param.numel() > 0)
    monkeypatch.setattr(_driver, "run_stacked", counting)
    monkeypatch.setattr(_driver.RuleOptimizer, "_can_foreach", lambda self, job: False)
    return together


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float32, "nearest"), (torch.bfloat16, "kahan")], ids=str)
def test_a_stack_is_its_tensors_one_by_one(name, dtype, rounding, stacked):
    expected = run(MAKERS[name], dtype, rounding=rounding, foreach=False)
    assert not stacked
    found = run(MAKERS[name], dtype, rounding=rounding)
    assert max(stacked) == 3
    elementwise = name not in CASES or CASES[name].elementwise
    for given, wanted in zip(found, expected, strict=True):
        for a, b in zip(given, wanted, strict=True):
            if elementwise:
                assert torch.equal(a, b)
            else:  # sums in another order
                torch.testing.assert_close(
                    a.float(), b.float(), rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-6
                )


def test_noise_of_a_stack_differs_between_its_tensors(stacked):
    params = [nn.Parameter(torch.ones(64, dtype=torch.bfloat16)) for _ in range(2)]
    optimizer = AdaX(params, lr=1e-3, rounding="stochastic")
    for param in params:
        param.grad = torch.ones_like(param)
    before = torch.get_rng_state()
    optimizer.step()
    assert stacked == [2] and torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(*params)


def test_a_bad_gradient_in_a_stack_stops_its_own_tensor_alone(stacked):
    params = [nn.Parameter(torch.ones(4, 3)) for _ in range(3)]
    optimizer = Tiger([{"params": params, "kind": "matrix"}], lr=0.01, weight_decay=0.0)
    for param in params:
        param.grad = torch.ones_like(param)
    params[1].grad[0, 0] = torch.nan
    optimizer.step()
    assert stacked == [3]
    torch.testing.assert_close(params[0].detach(), torch.full((4, 3), 0.99))
    assert torch.equal(params[0], params[2])
    torch.testing.assert_close(params[1].detach(), torch.full((4, 3), 0.99))  # shrunk
    assert not optimizer.state[params[1]]["momentum"].any()


def test_large_matrices_of_adafactor_take_its_passes_on_a_cpu():
    assert AdaFactor.rule.stack_up_to < 130 * 129 < 1 << 18


def test_parameter_search_reads_once_what_candidates_share(monkeypatch):
    """A read is what an accelerator is waited for."""
    reads = []
    cpu = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: reads.append(1) or cpu(self))
    params = [nn.Parameter(torch.ones(3)) for _ in range(5)]
    for param in params:
        param.grad = torch.ones_like(param)
    ParameterSearch(torch.optim.SGD(params, lr=0.1), num_candidates=4, density="true").step(lambda: 1.0)
    assert len(reads) == 1
