from __future__ import annotations

import copy
import math
import warnings

import pytest
import torch
from torch import nn

from suzoo.optimizers import Tiger, param_groups
from tests.optimizers._run import assert_paths_close, random_grads, run, tensor
from tests.reference.optimizers import tiger

NAN = math.nan
KINDS = {"dense.weight": "matrix", "dense.bias": "bias", "norm.gamma": "norm", "embeddings": "embedding"}
PARAMS = {
    "dense.weight": [[0.3, -0.4], [0.0, 1.2]],
    "dense.bias": [0.1, -0.2],
    "norm.gamma": [1.0, 0.9],
    "embeddings": [[0.6, 0.8], [0.03, -0.04]],
}
# four micro-gradients of each parameter
GRADS = {
    "dense.weight": [
        [[0.2, -0.1], [0.4, 0.3]],
        [[-0.4, -0.3], [0.2, -0.1]],
        [[0.1, 0.9], [-0.6, 0.2]],
        [[0.3, 0.8], [-0.2, -0.9]],
    ],
    "dense.bias": [[0.5, -0.5], [-0.7, 0.1], [0.3, 0.6], [0.1, 0.2]],
    "norm.gamma": [[0.1, -0.1], [0.2, 0.3], [NAN, 0.3], [-0.5, 0.4]],
    "embeddings": [
        [[1.0, -1.0], [0.0, 0.0]],
        [[0.0, 0.0], [0.5, 0.5]],
        [[-0.2, 0.4], [0.0, 0.0]],
        [[0.1, 0.1], [-0.1, 0.2]],
    ],
}
ORACLE = {
    1: {
        "dense.weight": [[2.9999185691e-01, -3.9998836028e-01], [-1.2487154034e-06, 1.1986692021e00]],
        "dense.bias": [0.099, -0.2],
        "norm.gamma": [0.9995100000, 0.9005000000],
        "embeddings": [[0.5971540542, 0.8028063402], [0.0298938766, -0.0401060244]],
    },
    2: {
        "dense.weight": [[2.9999642576e-01, -3.9999447657e-01], [-3.2475826490e-07, 1.1999840792e00]],
        "dense.bias": [0.1, -0.2],
        "norm.gamma": [1.0000050000, 0.9000050000],
        "embeddings": [[0.5985772103, 0.8014029895], [0.0299292631, -0.0400706874]],
    },
}


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("name", KINDS)
def test_tiger_oracle_values(name, k):
    grads = [tensor(g) for g in GRADS[name]]
    path = run(lambda p: Tiger([{"params": p, "kind": KINDS[name]}], accumulation_steps=k), tensor(PARAMS[name]), grads)
    assert_paths_close(path[-1:], [tensor(ORACLE[k][name])], atol=1e-10)


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("kind", ["matrix", "embedding", "norm", "bias"])
def test_tiger_is_the_reference(kind, k, foreach):
    shape = (4, 3) if kind in ("matrix", "embedding") else (5,)
    theta, grads = random_grads(shape, 1, seed=1)[0], random_grads(shape, 18)
    grads[0].view(-1)[1] = NAN  # first of a window
    grads[5].view(-1)[0] = math.inf  # last of a window of 3
    for bad in grads[9:12]:  # a whole window
        bad.view(-1)[2] = -math.inf
    options = {"lr": 0.05, "beta": 0.8, "weight_decay": 0.3}
    path = run(
        lambda p: Tiger(
            [{"params": p, "kind": kind}], rms_floor=0.01, accumulation_steps=k, foreach=foreach, **options
        ),
        theta,
        grads,
    )
    assert_paths_close(path, tiger(theta, grads, kind=kind, k=k, floor=0.01, **options))


@pytest.mark.parametrize("k", [2, 4])
def test_tiger_accumulation_is_the_mean_gradient(k):
    theta, grads = random_grads((3, 4), 1, seed=1)[0], random_grads((3, 4), 4 * k)
    hidden = run(lambda p: Tiger(p, accumulation_steps=k), theta, grads)
    means = [torch.stack(grads[i : i + k]).mean(0) for i in range(0, 4 * k, k)]
    assert_paths_close(hidden[k - 1 :: k], run(lambda p: Tiger(p), theta, means))


def test_tiger_step_is_relative_to_the_weights():
    """The property that names it: ten times the weights, ten times the step; a bias steps by lr / 2."""
    theta, grads = random_grads((3, 4), 1, seed=1)[0], random_grads((3, 4), 3)
    small, large = (run(lambda p: Tiger(p, weight_decay=0.0), scale * theta, grads)[-1] for scale in (1, 10))
    torch.testing.assert_close(large, 10 * small, rtol=0, atol=1e-12)
    (bias,) = run(lambda p: Tiger(p, lr=0.2, weight_decay=0.5), tensor([3.0]), [tensor([1.0])])
    assert float(bias) == pytest.approx(2.9)


def test_tiger_with_groups_of_a_model():
    model = nn.Sequential(nn.Embedding(4, 3), nn.Linear(3, 3), nn.LayerNorm(3))
    with torch.no_grad():
        model[0].weight[1] *= 100
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = Tiger(param_groups(model, weight_decay=0.0), lr=0.1)
    for param in model.parameters():
        param.grad = torch.ones_like(param)
    optimizer.step()
    change = [b - p.detach() for b, p in zip(before, model.parameters(), strict=True)]
    rms = before[0].square().mean(-1, keepdim=True).sqrt()
    torch.testing.assert_close(change[0], (0.1 * rms).expand(4, 3))  # each row by its own size
    torch.testing.assert_close(change[1], (0.1 * before[1].square().mean().sqrt()).expand(3, 3))
    for vector in change[2:]:
        torch.testing.assert_close(vector, torch.full((3,), 0.05))


def test_tiger_zero_matrix_warns_and_a_floor_moves_it():
    with pytest.warns(UserWarning, match="all-zero parameter"):
        path = run(lambda p: Tiger(p), torch.zeros(2, 2).double(), [torch.ones(2, 2).double()] * 3)
    assert not path[-1].any()
    path = run(lambda p: Tiger(p, rms_floor=1e-3), torch.zeros(2, 2).double(), [torch.ones(2, 2).double()] * 3)
    torch.testing.assert_close(path[-1], torch.full((2, 2), -3e-6).double(), rtol=0, atol=1e-10)


def test_tiger_shrink_ratio_one_only_skips():
    theta = tensor([[1.0, 2.0]])
    (after,) = run(lambda p: Tiger(p, shrink_ratio=1.0), theta, [tensor([[NAN, 1.0]])])
    assert torch.equal(after, theta)


def test_tiger_refuses_a_flat_matrix():
    param = nn.Parameter(torch.ones(6))
    optimizer = Tiger([{"params": [param], "kind": "matrix"}])
    param.grad = torch.ones(6)
    with pytest.raises(RuntimeError, match="flat piece"):
        optimizer.step()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": 1.0}, "beta"),
        ({"shrink_ratio": 0.0}, "shrink_ratio"),
        ({"accumulation_steps": 0}, "accumulation_steps"),
        ({"accumulation_steps": 2, "momentum_dtype": torch.bfloat16}, "float32"),
    ],
)
def test_tiger_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        Tiger([nn.Parameter(torch.zeros(1))], **options)


def test_tiger_refuses_an_unknown_kind():
    with pytest.raises(ValueError, match="kind must be"):
        Tiger([{"params": [nn.Parameter(torch.zeros(1))], "kind": "weights"}])


@pytest.mark.parametrize("known", [None, 1.0])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("momentum_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["matrix", "embedding"])
def test_tiger_compiled_does_to_a_bad_gradient_what_the_plain_form_does(kind, momentum_dtype, bad, known):
    """Exactly: nothing is undone. Also where somebody has said that some gradient is not finite, but not which."""
    generator = torch.Generator().manual_seed(0)
    start = 0.05 * torch.randn(1030, 512, generator=generator)
    good, grad = torch.randn(2, *start.shape, generator=generator)
    grad[3, 4], grad[5, 6] = bad, 1e30
    states = []
    for compile in (False, True):
        param, other = nn.Parameter(start.clone()), nn.Parameter(start.clone())
        groups = [{"params": [param, other], "kind": kind}]
        optimizer = Tiger(groups, 0.01, shrink_ratio=0.9, momentum_dtype=momentum_dtype, compile=compile)
        for param.grad in (good, grad):
            other.grad = good.clone()
            if known is not None:
                optimizer.found_inf = torch.tensor(known)
            before = param.detach().clone(), optimizer.state[param].get("momentum", good).clone()
            optimizer.step()
        assert torch.equal(param, 0.9 * before[0]) and torch.equal(optimizer.state[param]["momentum"], before[1])
        states.append((param.detach(), other.detach()))
    torch.testing.assert_close(*states, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("options", [{}, {"foreach": False}, {"compile": True}], ids=str)
def test_tiger_believes_who_says_that_gradients_are_finite(options):
    """The promise saves the look: `found_inf` of 0, as GradScaler and `engine.fit` set it."""
    weights = []
    for found_inf in (None, torch.tensor(0.0)):
        param = nn.Parameter(torch.linspace(-1, 1, 1030 * 512).view(1030, 512))
        optimizer = Tiger([{"params": [param], "kind": "matrix"}], **options)
        if found_inf is not None:
            optimizer.found_inf = found_inf
        for _ in range(2):
            param.grad = param.detach().cos()
            optimizer.step()
        weights.append(param.detach())
    assert torch.equal(*weights)
    param.grad[0, 0] = math.inf
    optimizer.step()
    assert not optimizer.state[param]["momentum"].isfinite().all()  # a broken promise


@pytest.mark.parametrize("kind", ["matrix", "embedding"])
def test_tiger_compiled_has_the_floor(kind):
    """Weights so small that `rms_floor` is the size of the step, and zero rows."""
    start = torch.full((1030, 512), 1e-6)
    start[::2] = 0.0
    weights = []
    for compile in (False, True):
        param = nn.Parameter(start.clone())
        optimizer = Tiger([{"params": [param], "kind": kind}], 0.01, rms_floor=1e-3, compile=compile)
        param.grad = start.cos()
        optimizer.step()
        weights.append(param.detach())
    torch.testing.assert_close(*weights, rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(weights[1], start - 1e-5, rtol=0, atol=1e-8)


def test_tiger_without_kinds_says_so_once(monkeypatch):
    monkeypatch.setattr(Tiger, "_warned_of_kinds", False)
    model = nn.Sequential(nn.Embedding(4, 3), nn.Linear(3, 3))
    with pytest.warns(UserWarning, match="no kinds of parameters.*param_groups"):
        Tiger(model.parameters())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Tiger(model.parameters())
        monkeypatch.setattr(Tiger, "_warned_of_kinds", False)
        Tiger(param_groups(model, weight_decay=0.1))
        Tiger([{"params": [model[1].bias]}])


def test_tiger_in_one_pass_is_the_plain_form_and_resumes_to_the_same_bits():
    """Compiled, a pass leaves Σθ² to the next. It may not outlive weights that change otherwise, or a bad gradient."""

    def params():
        generator = torch.Generator().manual_seed(0)
        shapes = [(730, 730)] * 2 + [(1030, 512)]
        return [torch.nn.Parameter(0.05 * torch.randn(shape, generator=generator)) for shape in shapes]

    def make(params, **options):
        groups = [{"params": params[:-1], "kind": "matrix"}, {"params": params[-1:], "kind": "embedding"}]
        return Tiger(groups, 0.05, rms_floor=1e-3, **options)

    def steps(optimizer, params, numbers):
        for number in numbers:
            generator = torch.Generator().manual_seed(100 + number)
            for param in params:
                param.grad = torch.randn(param.shape, generator=generator)
            if number == 1:
                params[-2].grad[3, 4] = torch.nan
                params[-1].grad[5, 6] = torch.inf
            if number == 4:  # not the first after state_dict(), which clears the sums
                with torch.no_grad():
                    params[0].mul_(2)
            optimizer.step()

    plain, passed = params(), params()
    steps(make(plain), plain, range(6))
    optimizer = make(passed, compile=True)
    steps(optimizer, passed, range(3))
    state = copy.deepcopy(optimizer.state_dict())
    resumed = [torch.nn.Parameter(p.detach().clone()) for p in passed]
    steps(optimizer, passed, range(3, 6))
    for p, q in zip(passed, plain, strict=True):
        torch.testing.assert_close(p, q, rtol=2e-5, atol=2e-6)
    other = make(resumed, compile=True)
    other.load_state_dict(state)
    steps(other, resumed, range(3, 6))
    assert all(torch.equal(p, q) for p, q in zip(passed, resumed, strict=True))


@pytest.mark.parametrize(
    ("kind", "shape", "layout"),
    [
        ("embedding", (1, 520, 512), lambda t: t),
        ("matrix", (64, 64, 8, 8), lambda t: t.to(memory_format=torch.channels_last)),
        ("matrix", (1031, 257), lambda t: t),  # no side that a power of 2 divides
    ],
    ids=["3 dimensions", "channels last", "odd"],
)
def test_tiger_compiled_takes_every_shape_and_layout(kind, shape, layout):
    generator = torch.Generator().manual_seed(0)
    value, grads = torch.randn(shape, generator=generator), [torch.randn(shape, generator=generator) for _ in range(3)]
    results = []
    for compile in (False, True):
        param = nn.Parameter(layout(value.clone()))
        optimizer = Tiger([{"params": [param], "kind": kind}], 0.01, compile=compile)
        for grad in grads:
            param.grad = layout(grad.clone())
            optimizer.step()
        results.append(param.detach())
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)
