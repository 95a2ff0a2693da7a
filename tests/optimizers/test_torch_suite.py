"""The checks that torch runs over its own optimizers (test/test_optim.py, test_lrscheduler.py, test_swa.py), on ours.

The classes are registered as torch registers its own; what does not apply is in REFUSED, with the reason.
"""

from __future__ import annotations

import copy
import io
import itertools
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as schedulers
from torch.optim.swa_utils import SWALR, AveragedModel, get_ema_multi_avg_fn, update_bn

from suzoo.optimizers import AccumulatedAdamW, AccumulatedSGD, AdaFactor, AdaX, AdaXW, Lion, Tiger

pytest.importorskip("expecttest", reason="torch.testing needs it: pip install suzoo[dev]")
from torch.testing._internal.common_optimizers import (
    OptimizerErrorEnum,
    OptimizerInfo,
    OptimizerInput,
    TensorTracker,
    get_error_inputs_for_all_optims,
)
from torch.testing._internal.common_utils import TestCase

REFUSED = {
    "maximize": "a sign before the loss does it",
    "capturable": "a step compiles by itself (compile=True), and decides on the CPU which kernels run",
    "differentiable": "a step runs without gradients",
    "fused": "compile=True takes its place",
    "complex": "signs, root mean squares and row and column sums of complex gradients are not those of the articles",
    "sparse": "decayed weights and momenta are dense: `lazy=True` keeps rows without gradient as they are",
    "tensor lr": "options are numbers, which every rank and checkpoint knows; kernels take the rate as a tensor anyway",
}


def inputs(*more: dict):
    def make(device, dtype=None):
        return [
            OptimizerInput(params=None, kwargs=k, desc=str(k)) for k in ({"lr": 0.01}, {"weight_decay": 0.1}, *more)
        ]

    return make


def info(cls, *more: dict) -> OptimizerInfo:
    return OptimizerInfo(
        cls,
        optim_inputs_func=inputs(*more),
        supported_impls=("foreach",),
        supports_complex=False,
        optim_error_inputs_func=get_error_inputs_for_all_optims,
    )


class SGD(AccumulatedSGD):
    """The only one without a default rate, as torch's once was."""

    def __init__(self, params, lr: float = 0.01, **options):
        super().__init__(params, lr, **options)


INFOS = [
    info(Lion, {"betas": (0.95, 0.98)}, {"lazy": True}),
    info(Tiger, {"rms_floor": 1e-3}, {"beta": 0.9}),
    info(AdaX, {"eps_placement": "raw"}, {"lazy": True}),
    info(AdaXW, {"eps_placement": "inside"}),
    info(AdaFactor, {"beta1": 0.9}, {"lr": None}, {"factor": "last", "min_dim_size_to_factor": 1}),
    info(AccumulatedAdamW, {"eps_inside": True}, {"lazy": True}),
    info(SGD, {"decoupled": True, "weight_decay": 0.1}, {"dampening": 0.5}),
]
every_info = pytest.mark.parametrize("info", INFOS, ids=lambda i: i.name)
CONFIGS = [(i, config) for i in INFOS for config in i.optim_inputs_func("cpu")]
every_config = pytest.mark.parametrize(("info", "config"), CONFIGS, ids=[f"{i.name}-{c.desc}" for i, c in CONFIGS])


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    monkeypatch.setattr(Tiger, "_warned_of_kinds", True)


def linear(dtype=torch.float32):
    """A layer, data and the closure with which torch's tests train it."""
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(10, 5, dtype=dtype))
    bias = nn.Parameter(torch.randn(10, dtype=dtype))
    data = torch.randn(5, dtype=dtype)

    def closure(optimizer):
        optimizer.zero_grad()
        loss = (weight.mv(data) + bias).pow(2).sum()
        loss.backward()
        return loss

    return [weight, bias], closure


def train(params, closure, optimizer, steps: int):
    for _ in range(steps):
        optimizer.step(lambda: closure(optimizer))
    return [p.detach().clone() for p in params]


def equal(first, second) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


# --- construction


@every_info
def test_errors(info):
    for case in info.optim_error_inputs_func("cpu", torch.float32):
        given, kwargs = case.optimizer_error_input.params, case.optimizer_error_input.kwargs
        given = [nn.Parameter(torch.randn(1, 1))] if given is None else given
        assert case.error_on is OptimizerErrorEnum.CONSTRUCTION_ERROR
        if case.error_type is UserWarning:
            with pytest.warns(UserWarning, match=case.error_regex):
                info.optim_cls(given, **kwargs)
        else:
            # a tensor as the rate is refused whatever its size, see REFUSED
            expected = "lr must be a finite number" if "Tensor lr" in case.error_regex else case.error_regex
            with pytest.raises(case.error_type, match=expected):
                info.optim_cls(given, **kwargs)


@every_info
def test_refusals(info):
    real, imaginary = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2, dtype=torch.complex64))
    for option in ("maximize", "capturable", "differentiable", "fused"):
        with pytest.raises(TypeError, match=option):
            info.optim_cls([real], **{option: True})
    with pytest.raises(ValueError, match="lr must be a finite number and not negative, not tensor"):
        info.optim_cls([real], lr=torch.tensor(0.01))
    with pytest.raises(ValueError, match="trains real parameters"):
        info.optim_cls([imaginary])
    real.grad = torch.ones(2, 2).to_sparse()
    with pytest.raises(RuntimeError, match="sparse gradient"):
        info.optim_cls([real]).step()
    assert set(REFUSED) == {"maximize", "capturable", "differentiable", "fused", "complex", "sparse", "tensor lr"}


@every_config
def test_optimizer_can_be_printed(info, config):
    params, _ = linear()
    text = repr(info.optim_cls(params, **config.kwargs))
    assert text.startswith(f"{info.name} (\nParameter Group 0") and "lr: " in text


@every_info
def test_param_groups_keep_their_own_options(info):
    (weight, bias), closure = linear()
    start = bias.detach().clone()
    optimizer = info.optim_cls([{"params": [weight]}, {"params": [bias], "lr": 0.0}], lr=0.01)
    train([weight, bias], closure, optimizer, 3)
    assert torch.equal(bias, start) and [g["lr"] for g in optimizer.param_groups] == [0.01, 0.0]
    optimizer = info.optim_cls([{"params": [weight], "weight_decay": 0.5}, {"params": [bias]}], weight_decay=0.1)
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.5, 0.1]


# --- steps


@every_config
@pytest.mark.parametrize("contiguous", [True, False])
def test_forloop_goes_right_direction(info, config, contiguous):
    torch.manual_seed(0)
    if contiguous:
        (weight, bias), closure = linear()
    else:
        weight, bias = nn.Parameter(torch.randn(10, 5, 2)[..., 0]), nn.Parameter(torch.randn(10, 2)[..., 0])
        data = torch.randn(5)

        def closure(optimizer):
            optimizer.zero_grad()
            loss = (weight.mv(data) + bias).pow(2).sum()
            loss.backward()
            return loss

    optimizer = info.optim_cls([weight, bias], **config.kwargs)
    first = closure(optimizer).item()
    train([weight, bias], closure, optimizer, 20)
    assert closure(optimizer).item() < first


SCHEDULES = {
    "StepLR": lambda o: schedulers.StepLR(o, 2, 0.5),
    "MultiStepLR": lambda o: schedulers.MultiStepLR(o, [2, 4]),
    "ExponentialLR": lambda o: schedulers.ExponentialLR(o, 0.9),
    "CosineAnnealingLR": lambda o: schedulers.CosineAnnealingLR(o, 5),
    "LinearLR": lambda o: schedulers.LinearLR(o),
    "PolynomialLR": lambda o: schedulers.PolynomialLR(o, 5),
    "LambdaLR": lambda o: schedulers.LambdaLR(o, lambda step: 1 / (1 + step)),
    "MultiplicativeLR": lambda o: schedulers.MultiplicativeLR(o, lambda step: 0.95),
    "CosineAnnealingWarmRestarts": lambda o: schedulers.CosineAnnealingWarmRestarts(o, 3),
    "ChainedScheduler": lambda o: schedulers.ChainedScheduler(
        [schedulers.LinearLR(o), schedulers.ExponentialLR(o, 0.9)]
    ),
    "SequentialLR": lambda o: schedulers.SequentialLR(
        o, [schedulers.LinearLR(o), schedulers.ExponentialLR(o, 0.9)], milestones=[2]
    ),
    "OneCycleLR": lambda o: schedulers.OneCycleLR(
        o, 0.05, 8, cycle_momentum="betas" in o.defaults or "momentum" in o.defaults
    ),
    "CyclicLR": lambda o: schedulers.CyclicLR(o, 0.001, 0.01, 2, cycle_momentum=False),
    "ReduceLROnPlateau": lambda o: schedulers.ReduceLROnPlateau(o, patience=0, threshold=1.0),
    "SWALR": lambda o: SWALR(o, swa_lr=0.002, anneal_epochs=3),
}


@every_info
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedulers_drive_it_and_resume(info, schedule):
    def build():
        params, closure = linear()
        optimizer = info.optim_cls(params, lr=0.01)
        return params, closure, optimizer, SCHEDULES[schedule](optimizer)

    def run(params, closure, optimizer, scheduler, steps):
        rates = []
        for _ in range(steps):
            loss = optimizer.step(lambda: closure(optimizer))
            scheduler.step(loss.item()) if schedule == "ReduceLROnPlateau" else scheduler.step()
            rates.append(optimizer.param_groups[0]["lr"])
        return rates

    whole = build()
    rates = run(*whole, 3)
    state = copy.deepcopy((whole[2].state_dict(), whole[3].state_dict(), [p.detach() for p in whole[0]]))
    rates += run(*whole, 3)
    assert len(set(rates)) > 1
    other = build()
    for param, value in zip(other[0], state[2], strict=True):
        param.data.copy_(value)
    other[2].load_state_dict(state[0])
    other[3].load_state_dict(state[1])
    assert run(*other, 3) == rates[3:] and equal(other[0], whole[0])


@every_config
def test_foreach_matches_forloop(info, config):
    tracker, results = TensorTracker(), []
    for foreach in (False, True):
        params, closure = linear(torch.float64)
        optimizer = info.optim_cls(params, foreach=foreach, **config.kwargs)
        train(params, closure, optimizer, 7)
        results.append((params, optimizer))
    (plain, one), (together, other) = results
    for param in plain:
        tracker.add(param)
        for name in sorted(one.state[param]):
            tracker.add(one.state[param][name])
    case = TestCase()
    for param in together:
        tracker.pop_check_set(param, case)
        for name in sorted(other.state[param]):
            tracker.pop_check_set(other.state[param][name], case)
    assert tracker.all_popped()


@every_info
def test_mixed_dtypes_and_the_default_dtype(info):
    """Parameters of several dtypes in one group, under another default dtype."""
    default = torch.get_default_dtype()
    values = []
    try:
        for dtype in (torch.float32, torch.float64):
            torch.set_default_dtype(dtype)
            generator = torch.Generator().manual_seed(0)
            params = [
                nn.Parameter(torch.rand(2, 3, generator=generator, dtype=torch.float64).to(d))
                for d in (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.float32)
            ]
            optimizer = info.optim_cls(params)
            for _ in range(3):
                for param in params:
                    param.grad = torch.ones_like(param)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # bf16 parameters that hardly move
                    optimizer.step()
            values.append([p.detach() for p in params])
    finally:
        torch.set_default_dtype(default)
    assert equal(*values) and all(v.isfinite().all() for v in values[0])


@every_config
def test_step_is_noop_when_params_have_no_grad(info, config):
    params, _ = linear()
    before = [p.detach().clone() for p in params]
    optimizer = info.optim_cls(params, **config.kwargs)
    optimizer.step()
    assert equal(params, before) and not any(optimizer.state.values())


@every_info
def test_step_is_noop_for_empty_tensors(info):
    param = nn.Parameter(torch.randn(5, 0))
    optimizer = info.optim_cls([param])
    param.grad = torch.zeros_like(param)
    optimizer.step()
    optimizer.step()
    assert float(optimizer.state[param]["step"]) == 2


@every_config
def test_grads_are_never_inplaced_into(info, config):
    params, closure = linear()
    optimizer = info.optim_cls(params, **config.kwargs)
    closure(optimizer)
    grads = [p.grad.clone() for p in params]
    versions = [p.grad._version for p in params]
    optimizer.step()
    assert equal([p.grad for p in params], grads) and versions == [p.grad._version for p in params]


@every_info
def test_defaults_and_large_values(info):
    """A gradient of 1e15, whose square float32 still holds."""
    param = nn.Parameter(torch.ones(3, 3))
    optimizer = info.optim_cls([param])
    param.grad = torch.full_like(param, 1e15)
    optimizer.step()
    assert param.isfinite().all()


# --- state


@every_config
def test_state_dict_deterministic(info, config):
    """A run from a loaded state gives the bits of the run it was saved from; through a file, with weights only."""
    params, closure = linear()
    optimizer = info.optim_cls(params, **config.kwargs)
    train(params, closure, optimizer, 5)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    others, other_closure = linear()
    for param, value in zip(others, params, strict=True):
        param.data.copy_(value)
    other = info.optim_cls(others, **config.kwargs)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert equal(train(params, closure, optimizer, 5), train(others, other_closure, other, 5))
    other.load_state_dict(optimizer.state_dict())
    params_state = [optimizer.state[p] for p in params], [other.state[p] for p in others]
    for mine, theirs in zip(*params_state, strict=True):
        assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


@every_info
@pytest.mark.parametrize(("named", "other_named"), [*itertools.product([False, True], repeat=2)])
def test_can_load_from_to_named_state_dict(info, named, other_named):
    def build(with_names):
        params, closure = linear()
        given = list(zip(("weight", "bias"), params, strict=True)) if with_names else params
        return params, closure, info.optim_cls(given)

    params, closure, optimizer = build(named)
    train(params, closure, optimizer, 2)
    _, _, other = build(other_named)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert ("param_names" in other.param_groups[0]) == (named or other_named)
    if named:
        assert optimizer.state_dict()["param_groups"][0]["param_names"] == ["weight", "bias"]


@every_info
def test_load_nontensor_step(info):
    params, closure = linear()
    optimizer = info.optim_cls(params)
    train(params, closure, optimizer, 3)
    state = copy.deepcopy(optimizer.state_dict())
    for of_param in state["state"].values():
        of_param["step"] = of_param["step"].item()
    expected = train(params, closure, optimizer, 2)
    others, other_closure = linear()
    other = info.optim_cls(others)
    train(others, other_closure, other, 3)
    other.load_state_dict(state)
    assert equal(train(others, other_closure, other, 2), expected)
    assert all(torch.is_tensor(other.state[p]["step"]) for p in others)


@every_config
def test_deepcopy_and_pickle(info, config):
    params, closure = linear()
    optimizer = info.optim_cls(params, **config.kwargs)
    train(params, closure, optimizer, 2)
    for twin in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert repr(twin) == repr(optimizer)
        mine, theirs = ([o.state[p] for p in o.param_groups[0]["params"]] for o in (optimizer, twin))
        assert all(torch.equal(a[name], b[name]) for a, b in zip(mine, theirs, strict=True) for name in a)


# --- hooks


@every_info
def test_step_hooks(info):
    params, closure = linear()
    optimizer, seen = info.optim_cls(params), []
    pre = optimizer.register_step_pre_hook(lambda o, args, kwargs: seen.append("pre"))
    post = optimizer.register_step_post_hook(lambda o, args, kwargs: seen.append("post"))
    from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

    for_all = (
        register_optimizer_step_pre_hook(lambda o, args, kwargs: seen.append("pre of all")),
        register_optimizer_step_post_hook(lambda o, args, kwargs: seen.append("post of all")),
    )
    train(params, closure, optimizer, 1)
    assert seen == ["pre of all", "pre", "post", "post of all"]
    for handle in (pre, post, *for_all):
        handle.remove()
    train(params, closure, optimizer, 1)
    assert len(seen) == 4


@every_info
def test_state_dict_hooks(info):
    params, closure = linear()
    optimizer, seen = info.optim_cls(params), []
    train(params, closure, optimizer, 1)
    optimizer.register_state_dict_pre_hook(lambda o: seen.append("pre"))
    optimizer.register_state_dict_post_hook(lambda o, state: {**state, "extra": 1})
    optimizer.register_state_dict_pre_hook(lambda o: seen.append("first"), prepend=True)
    state = optimizer.state_dict()
    assert seen == ["first", "pre"] and state["extra"] == 1
    optimizer.register_load_state_dict_pre_hook(lambda o, state: {**state, "state": {}})
    optimizer.register_load_state_dict_post_hook(lambda o: seen.append("loaded"))
    optimizer.load_state_dict(state)
    assert not any(optimizer.state.values()) and seen[-1] == "loaded"


# --- averaged weights, gradient scalers


@every_info
@pytest.mark.parametrize("average", [None, get_ema_multi_avg_fn(0.9)], ids=["SWA", "EMA"])
def test_averaged_models(info, average):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Linear(6, 2))
    averaged = AveragedModel(model, multi_avg_fn=average, use_buffers=average is not None)
    optimizer = info.optim_cls(model.parameters(), lr=0.01)
    schedule = SWALR(optimizer, swa_lr=0.005, anneal_epochs=2)
    data, expected = torch.randn(8, 5), []
    for step in range(4):
        model(data).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        averaged.update_parameters(model)
        schedule.step()
        value = model[0].weight.detach().clone()
        if average is None:
            expected.append(value)
        else:
            expected = [value] if not step else [0.9 * expected[0] + 0.1 * value]
    update_bn([data], averaged)
    torch.testing.assert_close(averaged.module[0].weight, torch.stack(expected).mean(0))


@every_config
@pytest.mark.parametrize("unscale_first", [False, True])
def test_grad_scaling(info, config, unscale_first):
    """With a scale that is a power of 2 the weights are those without; an overflow skips the step."""
    weights = []
    for scaled in (True, False):
        params, _ = linear()
        optimizer = info.optim_cls(params, **config.kwargs)
        scaler = torch.amp.GradScaler("cpu", init_scale=128.0, growth_interval=2, enabled=scaled)
        for step in range(5):
            optimizer.zero_grad()
            loss = (params[0].mv(torch.ones(5)) + params[1]).pow(2).sum()
            scaler.scale(loss * (float("inf") if scaled and step == 2 else 1.0)).backward()
            if not scaled and step == 2:
                continue
            if unscale_first:
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(params, 5.0)
            scaler.step(optimizer)
            scaler.update()
        weights.append([p.detach() for p in params])
    if unscale_first:
        for a, b in zip(*weights, strict=True):
            torch.testing.assert_close(a, b)
    else:
        assert equal(*weights)
