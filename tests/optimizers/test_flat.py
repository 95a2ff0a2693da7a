"""Flat pieces of parameters: FSDP1 on two gloo ranks, and what DeepSpeed ZeRO does to an optimizer's groups."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel

from suzoo.optimizers import AdaFactor, LoRAOptimizer, ParameterSearch, Tiger, param_groups
from tests.optimizers._cases import CASES
from tests.optimizers.test_sharded import batch, build, distance, train, weights
from tests.ranks import run_ranks

ELEMENTWISE = [name for name, case in CASES.items() if case.elementwise and not name.startswith("Accumulated(")]
REFUSED = {
    "AdaFactor": lambda model: AdaFactor(model.parameters()),
    "Tiger": lambda model: Tiger(model.parameters()),
    "LoRAOptimizer": lambda model: LoRAOptimizer(model.parameters(), torch.optim.AdamW, r=1),
    "param_groups": lambda model: param_groups(model, weight_decay=0.1),
}


def fsdp1(use_orig_params: bool) -> FullyShardedDataParallel:
    model = build(torch.float64)
    return FullyShardedDataParallel(model, use_orig_params=use_orig_params, device_id=torch.device("cpu"))


def on_two_ranks() -> dict:
    results = {}
    for name in ELEMENTWISE:
        plain = build(torch.float64)
        expected = train(plain, CASES[name].make(plain.parameters()), range(8))
        for use_orig_params in (False, True):
            model = fsdp1(use_orig_params)
            train(model, CASES[name].make(model.parameters()), range(8))
            with FullyShardedDataParallel.summon_full_params(model):
                results[name, use_orig_params] = distance(weights(model.module), expected)
    for name, make in REFUSED.items():
        model = fsdp1(False)
        try:
            train(model, make(model), range(1))
            results[name] = "not refused"
        except (ValueError, RuntimeError) as error:
            results[name] = str(error)
    return results


@pytest.fixture(scope="module")
def results() -> dict:
    return run_ranks(on_two_ranks)[1]


@pytest.mark.parametrize("use_orig_params", [False, True])
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_element_wise_rules_on_fsdp1_equal_one_process(results, name, use_orig_params):
    assert results[name, use_orig_params] == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("AdaFactor", "AdaFactor looks at whole matrices but was given a flat piece"),
        ("Tiger", "Tiger looks at whole matrices but was given a flat piece"),
        ("LoRAOptimizer", "found no matrix larger than r=1"),
        ("param_groups", "FSDP1 (FullyShardedDataParallel) has made flat vectors"),
    ],
)
def test_what_needs_matrices_refuses_fsdp1(results, name, message):
    assert message in results[name]


def flatten(optimizer) -> None:
    """As DeepSpeed's ZeRO 1 and 2: one rank's half of a flat copy of every group."""
    for group in optimizer.param_groups:
        flat = torch.cat([param.detach().reshape(-1) for param in group["params"]])
        group["params"] = [nn.Parameter(flat[: (len(flat) + 1) // 2].clone())]


@pytest.mark.parametrize("make", [Tiger, AdaFactor, lambda groups: ParameterSearch(torch.optim.AdamW(groups))])
def test_what_needs_matrices_refuses_zero(make):
    optimizer = make(param_groups(build(torch.float32), weight_decay=0.1))
    flatten(optimizer)
    for group in optimizer.param_groups:
        group["params"][0].grad = torch.ones_like(group["params"][0])
    optimizer.task_loss = lambda: 0.0
    with pytest.raises((RuntimeError, ValueError), match=r"was given (a flat piece of one|flat copies of them)"):
        optimizer.step()


def test_lora_refuses_zero():
    optimizer = LoRAOptimizer(param_groups(build(torch.float32), weight_decay=0.1), torch.optim.AdamW, r=2)
    with pytest.raises(ValueError, match="was given flat pieces of them, as FSDP1 and DeepSpeed ZeRO"):
        flatten(optimizer)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_element_wise_rules_do_not_see_that_a_group_became_flat(name):
    whole, piece = build(torch.float64), build(torch.float64)
    own = CASES[name].make(param_groups(whole, weight_decay=0.1))
    other = CASES[name].make(param_groups(piece, weight_decay=0.1))
    flatten(other)
    for step in range(6):
        whole(batch(step)).square().mean().backward()
        for group, flat in zip(own.param_groups, other.param_groups, strict=True):
            (param,) = flat["params"]
            param.grad = torch.cat([p.grad.reshape(-1) for p in group["params"]])[: len(param)]
        for optimizer in (own, other):
            optimizer.step()
            optimizer.zero_grad()
    for group, flat in zip(own.param_groups, other.param_groups, strict=True):
        (param,) = flat["params"]
        expected = torch.cat([p.detach().reshape(-1) for p in group["params"]])[: len(param)]
        assert torch.equal(param.detach(), expected)
