"""Where the optimizers meet torch: checkpoints and their hooks, torch.compile, closures, groups, gradient scalers."""

from __future__ import annotations

import copy
import inspect
import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from suzoo.optimizers import (
    Accumulated,
    AccumulatedAdamW,
    AccumulatedSGD,
    AdaFactor,
    AdaX,
    Lion,
    LoRAOptimizer,
    ParameterSearch,
    Tiger,
    _compiled,
)
from tests.optimizers import _signum
from tests.optimizers._cases import CASES, make_params, run_steps


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4))


def adamw(groups):
    return torch.optim.AdamW(groups, lr=0.05)


def searching(params):
    search = ParameterSearch(adamw(params), num_candidates=2)
    search.task_loss = lambda: 1.0
    return search


ALL = {
    **{name: case.make for name, case in CASES.items()},
    "LoRAOptimizer": lambda p: LoRAOptimizer(p, adamw, r=2),
    "LoRAOptimizer, projection": lambda p: LoRAOptimizer(p, adamw, r=2, variant="projection"),
    "ParameterSearch": searching,
}
every_optimizer = pytest.mark.parametrize("make", ALL.values(), ids=ALL)


def train(model, optimizer, steps, call=None) -> list[torch.Tensor]:
    for step in steps:
        data = torch.randn(3, 6, generator=torch.Generator().manual_seed(step))
        model(data).square().sum().backward()
        (call or optimizer.step)()
        optimizer.zero_grad()
    return [p.detach().clone() for p in model.parameters()]


# --- closures


@every_optimizer
def test_the_closure_is_called_with_gradients_on_and_its_value_returned(make):
    model = net()
    optimizer = make(list(model.parameters()))
    modes = []

    def closure():
        modes.append(torch.is_grad_enabled())
        optimizer.zero_grad()
        loss = model(torch.ones(1, 6)).square().sum()
        if torch.is_grad_enabled():
            loss.backward()
        return float(loss)

    if isinstance(optimizer, ParameterSearch):  # its closure is the task loss, called without gradients
        closure()
        assert optimizer.step(closure=lambda: 2.5) == 2.5
        assert optimizer.step(lambda: 1.5) == 1.5 and optimizer.result.current == 1.5
        return
    expected = float(model(torch.ones(1, 6)).detach().square().sum())
    with torch.no_grad():
        assert optimizer.step(closure=closure) == pytest.approx(expected)
    assert isinstance(optimizer.step(closure), float) and modes == [True, True]
    assert optimizer.step() is None and "closure" in inspect.signature(optimizer.step).parameters


# --- torch.compile


@every_optimizer
def test_a_compiled_step_is_the_step(make):
    models = net(), net()
    eager, compiled = (make(list(model.parameters())) for model in models)
    torch.compiler.reset()
    call = torch.compile(compiled.step, backend="eager")
    expected = train(models[0], eager, range(4))
    assert all(torch.equal(a, b) for a, b in zip(train(models[1], compiled, range(4), call), expected, strict=True))


# --- load_state_dict


def test_hooks_of_load_state_dict_see_and_change_what_is_loaded():
    """Torch's recipe for named parameters: a pre-hook that reorders the state by names."""

    def by_name(optimizer, state_dict):
        (saved,) = state_dict["param_groups"]
        (mine,) = optimizer.param_groups
        number = dict(zip(saved["param_names"], saved["params"], strict=True))
        order = [number[name] for name in mine["param_names"]]
        return {
            "state": {i: state_dict["state"][old] for i, old in enumerate(order)},
            "param_groups": [{**saved, "param_names": mine["param_names"], "params": [*range(len(order))]}],
        }

    model = net().bfloat16()
    source = Lion(model.named_parameters(), lr=0.1)
    for param in model.parameters():
        param.grad = torch.ones_like(param)
    source.step()
    target = Lion(list(model.named_parameters())[::-1], lr=0.3)
    seen = []
    target.register_load_state_dict_pre_hook(by_name)
    target.register_load_state_dict_post_hook(
        lambda optimizer: seen.append(optimizer.state[model[0].weight]["momentum"])
    )
    given = source.state_dict()
    before = copy.deepcopy(given)
    target.load_state_dict(given)
    for param in model.parameters():
        assert torch.equal(target.state[param]["momentum"], source.state[param]["momentum"])
        assert target.state[param]["momentum"].dtype == torch.float32
    assert seen[0] is target.state[model[0].weight]["momentum"]
    assert given["param_groups"] == before["param_groups"] and len(target._optimizer_load_state_dict_pre_hooks) == 1


@pytest.mark.parametrize("make", [AdaX, AdaFactor, Tiger, lambda p: AccumulatedAdamW(p), _signum.Signum])
def test_the_state_of_another_optimizer_is_refused_and_changes_nothing(make):
    params = make_params()
    theirs = torch.optim.SGD(params, 0.1, momentum=0.9)
    run_steps(theirs, params, range(1))
    optimizer = make(params)
    run_steps(optimizer, params, range(1))
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match=r"has momentum_buffer, and .* needs .*: this is the checkpoint of another"):
        optimizer.load_state_dict(theirs.state_dict())
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    assert all(torch.equal(v, before["state"][i][n]) for i, s in after["state"].items() for n, v in s.items())
    run_steps(optimizer, params, range(1, 2))


def test_options_that_are_newer_than_a_checkpoint_have_their_defaults():
    params = make_params()
    optimizer = AdaFactor(params)
    run_steps(optimizer, params, range(1))
    state = optimizer.state_dict()
    del state["param_groups"][0]["relative_scale"]
    other = AdaFactor(params)
    other.load_state_dict(state)
    assert other.param_groups[0]["relative_scale"] == 0.05
    run_steps(other, params, range(1, 2))


def test_a_post_hook_has_the_last_word():
    params = make_params()
    optimizer = Lion(params)
    run_steps(optimizer, params, range(2))

    def halve(optimizer):
        for state in optimizer.state.values():
            state["momentum"].mul_(0.5)

    other = Lion(params)
    other.register_load_state_dict_post_hook(halve)
    other.load_state_dict(optimizer.state_dict())
    for param in params:
        assert torch.equal(other.state[param]["momentum"], 0.5 * optimizer.state[param]["momentum"])


# --- torch.distributed.checkpoint


@every_optimizer
@pytest.mark.parametrize("full", [False, True])
def test_the_state_goes_through_the_functions_of_distributed_checkpoints(make, full):
    options = StateDictOptions(full_state_dict=full)
    model = net()
    optimizer = make(list(model.parameters()))
    get_optimizer_state_dict(model, optimizer, options=options)  # makes the state by a step that is none
    train(model, optimizer, range(4))
    state = copy.deepcopy(get_optimizer_state_dict(model, optimizer, options=options))
    assert set(state["state"]) == {name for name, _ in model.named_parameters()}
    resumed = net()
    resumed.load_state_dict(model.state_dict())
    other = make(list(resumed.parameters()))
    set_optimizer_state_dict(resumed, other, state, options=options)
    expected = train(model, optimizer, range(4, 8))
    assert all(torch.equal(a, b) for a, b in zip(train(resumed, other, range(4, 8)), expected, strict=True))


@pytest.mark.parametrize(
    "make", [lambda p: Accumulated(torch.optim.SGD(p, 0.05), 2), lambda p: Tiger(p, accumulation_steps=2)]
)
def test_making_the_state_is_no_micro_step(make):
    models = net(), net()
    looked_at, untouched = (make(list(model.parameters())) for model in models)
    get_optimizer_state_dict(models[0], looked_at)
    assert looked_at.at_boundary
    for _ in range(2):
        weights = [train(model, o, range(2)) for model, o in zip(models, (looked_at, untouched), strict=True)]
        torch.testing.assert_close(*weights)


def test_a_window_without_its_sums_is_refused():
    model = net()
    optimizer = Accumulated(adamw(model.parameters()), 2)
    train(model, optimizer, range(3))
    state = optimizer.state_dict()
    for of_param in state["state"].values():
        of_param.pop("gradient_sum")
    with pytest.raises(ValueError, match="4 sums of gradients belong to it, but 0 are there"):
        Accumulated(adamw(net().parameters()), 2).load_state_dict(state)
    with pytest.raises(ValueError, match="state of an optimizer alone"):
        optimizer.load_state_dict(optimizer.optimizer.state_dict())
    with pytest.raises(ValueError, match="state of an optimizer alone"):
        searching(model.parameters()).load_state_dict(adamw(model.parameters()).state_dict())


# --- groups and options


@pytest.mark.parametrize(
    ("make", "group", "message"),
    [
        (AdaX, {"momentum_dtype": torch.bfloat16}, "AdaX has no momentum_dtype='bfloat16'"),
        (AdaFactor, {"lazy": True}, "AdaFactor has no lazy=True"),
        (Tiger, {"lazy": True}, "Tiger has no lazy=True"),
        (Lion, {"accumulation_steps": 2}, "Lion has no accumulation_steps=2"),
        (_signum.Signum, {"foreach": True}, "Signum has no multi-tensor form"),
        (AccumulatedAdamW, {"momentum_dtype": torch.bfloat16}, "AccumulatedAdamW has no momentum_dtype"),
        (Lion, {"momentum_dtype": torch.bfloat16, "betas": (0.9, 0.999)}, "a bfloat16 momentum cannot decay by 0.999"),
        (Lion, {"foreach": "no"}, "foreach must be None, True or False, not 'no'"),
        (Lion, {"betas": 0.9}, "betas must be two numbers in"),
        (Lion, {"betas": (0.9, True)}, "betas must be two numbers in"),
        (Lion, {"compile": "yes"}, "compile must be True or False"),
        (Lion, {"lr": math.nan}, "lr must be a finite number"),
        (AdaFactor, {"min_dim_size_to_factor": -1}, "min_dim_size_to_factor must be a whole number from 1 on, not -1"),
        (AdaFactor, {"decay_rate": math.inf}, "decay_rate must be a positive, finite number, not inf"),
        (AdaFactor, {"eps": 1e-30}, r"eps must be \(at least 1e-37, at least 0\)"),
        (Tiger, {"accumulation_steps": True}, "accumulation_steps must be a whole number from 1 on, not True"),
        (Tiger, {"beta": "0.9"}, r"beta must be a number in \[0, 1\), not '0.9'"),
    ],
)
def test_a_group_is_checked_as_the_constructor_is(make, group, message):
    optimizer = make([nn.Parameter(torch.ones(2))])
    with pytest.raises(ValueError, match=message):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))], **group})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize("name", CASES)
def test_groups_with_the_keys_of_other_optimizers_and_wrappers_work(name):
    """SAM's wrappers hand their own groups to the optimizer inside, with all of torch's keys."""
    if name.startswith("Accumulated("):
        pytest.skip("its groups are torch's business")
    params, plain = make_params(), make_params()
    foreign = {"foreach": None, "rho": 0.05, "maximize": False, "fused": None, "momentum_dtype": None, "lazy": False}
    expected = CASES[name].make(plain)
    if "betas" not in expected.defaults:
        foreign |= {"betas": (0.5, 0.5)}
    expected = run_steps(expected, plain, range(2))
    optimizer = CASES[name].make([{"params": params, **foreign}])
    assert all(torch.equal(a, b) for a, b in zip(run_steps(optimizer, params, range(2)), expected, strict=True))


def test_an_option_that_the_class_does_not_have_is_no_keyword():
    for make in (AdaX, lambda p, **o: AccumulatedSGD(p, 0.1, **o), _signum.Signum):
        with pytest.raises(TypeError, match="momentum_dtype"):
            make([nn.Parameter(torch.ones(2))], momentum_dtype=torch.bfloat16)
    for options in ({"accumulation_steps": 2}, {"free_gradients": True}):
        with pytest.raises(TypeError, match=f"Signum .*{next(iter(options))}"):
            _signum.Signum([nn.Parameter(torch.ones(2))], **options)


def test_numbers_of_numpy_become_pythons():
    """Rates come from `np.logspace`; torch.load(weights_only=True) refuses numpy's in a checkpoint."""
    options = {"lr": np.float32(0.5), "accumulation_steps": np.int64(2)}
    param = nn.Parameter(torch.ones(2))
    for optimizer in (Tiger([param], **options), Tiger([{"params": [param], **options}], accumulation_steps=2)):
        (group,) = optimizer.state_dict()["param_groups"]
        assert type(group["lr"]) is float and type(group["accumulation_steps"]) is int


def test_lora_takes_named_parameters():
    for named in (lambda m: m.named_parameters(), lambda m: [{"params": m.named_parameters()}]):
        model, plain = net(), net()
        optimizer = LoRAOptimizer(named(model), adamw, r=2)
        expected = train(plain, LoRAOptimizer(plain.parameters(), adamw, r=2), range(2))
        assert all(torch.equal(a, b) for a, b in zip(train(model, optimizer, range(2)), expected, strict=True))


@pytest.mark.parametrize("scale_parameter", [True, False])
def test_hf_preset_with_relative_steps_is_transformers(scale_parameter):
    from transformers import Adafactor

    start = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    options = {"scale_parameter": scale_parameter}
    optimizers = (
        AdaFactor([ours], **{**AdaFactor.PRESETS["hf"], "lr": None}, **options),
        Adafactor([theirs], relative_step=True, **options),
    )
    for step in range(5):
        grad = torch.randn(6, 5, generator=torch.Generator().manual_seed(step))
        for param, optimizer in zip((ours, theirs), optimizers, strict=True):
            param.grad = grad.clone()
            optimizer.step()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    assert (ours - start).abs().max() > 1e-3


# --- gradient scalers


@pytest.mark.parametrize("unscale_first", [False, True])
def test_grad_scaler_and_tiger_skip_what_overflows_and_unscale_the_rest(unscale_first):
    models = net(), net()
    scaled, plain = (Tiger([{"params": list(m.parameters())[:1], "kind": "matrix"}]) for m in models)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)

    def step(data):
        scaler.scale(models[0](data).square().sum()).backward()
        if unscale_first:
            scaler.unscale_(scaled)
        scaler.step(scaled)
        scaler.update()
        scaled.zero_grad()

    data = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    step(data)
    models[1](data).square().sum().backward()
    plain.step()
    assert torch.equal(models[0][0].weight, models[1][0].weight)
    step(torch.full((3, 6), math.inf))  # a scale that was too large: nothing shrinks
    assert torch.equal(models[0][0].weight, models[1][0].weight) and scaler.get_scale() == 512
    assert scaled.found_inf is None and not hasattr(scaled, "grad_scale")


# --- warnings


def test_warnings_name_the_line_that_called():
    zeros, low = nn.Parameter(torch.zeros(3, 3)), nn.Parameter(torch.ones(3, 3).bfloat16())
    optimizers = Tiger([{"params": [zeros], "kind": "matrix"}]), Lion([low], 1e-6)
    for param, optimizer in zip((zeros, low), optimizers, strict=True):
        param.grad = torch.ones_like(param)
        with pytest.warns(UserWarning, match="all-zero parameter|left most elements") as caught:
            optimizer.step()
        assert [warning.filename for warning in caught] == [__file__]


# --- private modules of torch


def test_without_the_private_modules_the_plain_form_runs(monkeypatch):
    def moved():
        raise ImportError("no module named torch._inductor.elsewhere")

    monkeypatch.setattr(_compiled, "_private", moved)
    _compiled._imports_work.cache_clear()
    start = torch.linspace(-1, 1, 700 * 400).view(700, 400)
    weights = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for options in ({"compile": True}, {}):
            for make in (Lion, AdaFactor, lambda p, **o: Tiger([{"params": p, "kind": "matrix"}], **o)):
                param = nn.Parameter(start.clone())
                param.grad = start.cos()
                make([param], **options).step()
                weights.append(param.detach())
    _compiled._imports_work.cache_clear()
    assert len([w for w in caught if "compile=True has no effect with torch" in str(w.message)]) == 1
    assert all(torch.equal(a, b) for a, b in zip(weights[:3], weights[3:], strict=True))


def test_the_smallest_optimizer_has_less_than_20_lines():
    lines = inspect.getsource(_signum).split('"""', 2)[2].strip().splitlines()
    assert len([line for line in lines if line]) < 20 and "Signum" in CASES
