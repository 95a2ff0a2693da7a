from __future__ import annotations

import pytest
import torch
from transformers.optimization import Adafactor as HFAdafactor

from suzoo.optimizers import AdaFactor
from suzoo.optimizers.adafactor import factored_dims
from tests.optimizers._run import assert_paths_close, random_grads, run, tensor
from tests.reference.optimizers import adafactor

W0 = [[0.5, -0.3, 0.8], [1.0, 0.2, -0.6]]
GW = [
    [[0.1, -0.2, 0.3], [0.4, 0.5, -0.6]],
    [[-0.05, 0.15, 0.25], [0.35, -0.45, 0.1]],
    [[0.2, 0.1, -0.3], [-0.15, 0.05, 0.4]],
]
FACTORED = {"min_dim_size_to_factor": 1}
ORACLE = {
    "paper": (
        AdaFactor.PRESETS["paper"],
        [[0.4904744066, -0.3017239786, 0.7928030479], [0.9902549046, 0.1988789824, -0.6011351267]],
    ),
    "bojone factored": (
        AdaFactor.PRESETS["bojone"] | FACTORED,
        [[0.4990405414, -0.3001795804, 0.7992827080], [0.9990240093, 0.1998918171, -0.6001211677]],
    ),
    "bojone small": (
        AdaFactor.PRESETS["bojone"],
        [[0.4988961040, -0.3003430150, 0.7994568192], [0.9990923401, 0.1998833729, -0.6001583053]],
    ),
    "bojone momentum": (
        {"beta1": 0.9} | FACTORED,
        [[0.4998552787, -0.2999565670, 0.7997352467], [0.9997313206, 0.1999363661, -0.5999203997]],
    ),
    "hf momentum": (
        AdaFactor.PRESETS["hf"] | {"beta1": 0.9},
        [[0.4998552713, -0.2999565571, 0.7997352211], [0.9997312979, 0.1999363570, -0.5999203863]],
    ),
    "absolute rate": (
        {"scale_parameter": False} | FACTORED,
        [[0.4984753797, -0.3002864021, 0.7988615347], [0.9984500929, 0.1998289221, -0.6001937409]],
    ),
}


@pytest.mark.parametrize("name", ORACLE)
def test_adafactor_oracle_values(name):
    options, expected = ORACLE[name]
    path = run(lambda p: AdaFactor(p, **options), tensor(W0), [tensor(g) for g in GW])
    assert_paths_close(path[-1:], [tensor(expected)], atol=1e-10)


def test_adafactor_oracle_values_of_a_bias():
    grads = [tensor([0.3, -0.1]), tensor([-0.2, 0.4]), tensor([0.05, 0.0])]
    path = run(lambda p: AdaFactor(p, **AdaFactor.PRESETS["paper"]), tensor([0.1, -0.2]), grads)
    expected = [tensor([0.0984188612, -0.1984188612]), tensor([0.0991826340, -0.2002959672])]
    assert_paths_close([path[0], path[2]], expected, atol=1e-10)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("momentum_on", ["update", "step"])
@pytest.mark.parametrize("beta1", [0.0, 0.9])
@pytest.mark.parametrize("shape", [(5, 3), (4,)])
def test_adafactor_is_the_reference(shape, beta1, momentum_on, weight_decay):
    theta, grads = random_grads(shape, 1, seed=1)[0], random_grads(shape, 20)
    options = {"beta1": beta1, "momentum_on": momentum_on, "weight_decay": weight_decay}
    path = run(lambda p: AdaFactor(p, lr=0.01, min_dim_size_to_factor=1, **options), theta, grads)
    assert_paths_close(path, adafactor(theta, grads, lr=lambda t: 0.01, factored=len(shape) == 2, **options))


def test_adafactor_bigvision_is_the_reference():
    theta, grads = random_grads((40, 33), 1, seed=1)[0], random_grads((40, 33), 5)
    options = AdaFactor.PRESETS["bigvision"] | {"momentum_dtype": None}
    path = run(lambda p: AdaFactor(p, **options), theta, grads)
    reference = {"beta1": 0.9, "clip": None, "scale": False, "beta2_cap": 0.999}
    assert_paths_close(path, adafactor(theta, grads, lr=lambda t: 1e-3, factored=True, **reference))


@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1}, {"beta1": 0.9}, {"lr": None}])
def test_adafactor_hf_preset_is_transformers(options):
    theta, grads = random_grads((2, 5, 3), 1, seed=1)[0], random_grads((2, 5, 3), 10)
    ours = run(lambda p: AdaFactor(p, **(AdaFactor.PRESETS["hf"] | options)), theta, grads)
    relative = "lr" in options
    theirs_options = {"lr": 1e-3, "relative_step": relative, "warmup_init": False, **options}
    assert_paths_close(ours, run(lambda p: HFAdafactor(p, scale_parameter=True, **theirs_options), theta, grads))


def test_adafactor_keeps_weights_where_the_product_form_makes_nan():
    """fp32, an all-zero gradient: R C = 1e-60 underflows, 0 / 0. Only bojone's product form does this."""
    param = torch.nn.Parameter(torch.tensor(W0))
    optimizer = AdaFactor([param], min_dim_size_to_factor=1)
    param.grad = torch.zeros(2, 3)
    optimizer.step()
    assert torch.equal(param, torch.tensor(W0))


def test_adafactor_does_not_see_the_scale_of_the_gradient():
    """torch.optim.Adafactor does: its eps clamps mean(R), and gradients of 1e-4 give a 6.8 times larger second step."""
    paths = []
    for scale in (1.0, 1e-4, 1e-12):
        param = torch.nn.Parameter(torch.tensor(W0))
        optimizer = AdaFactor([param], lr=0.01, min_dim_size_to_factor=1)
        for grad in (scale * torch.tensor(GW[0]), 0.1 * scale * torch.tensor(GW[0])):
            param.grad = grad
            optimizer.step()
        paths.append(param.detach())
    torch.testing.assert_close(paths[1], paths[0], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(paths[2], paths[0], rtol=1e-5, atol=1e-7)


def test_adafactor_second_moment_is_the_best_rank_one_fit():
    """The property that names it: no column times row has a smaller generalized Kullback-Leibler divergence to g²."""
    squares = tensor(GW[0]).square()
    row, column = squares.mean(1, keepdim=True), squares.mean(0, keepdim=True)

    def divergence(a, b):
        fit = a * b
        return float((squares * (squares / fit).log() - squares + fit).sum())

    best = divergence(row, column / row.mean())
    assert best == pytest.approx(0.0111257264, abs=1e-10)
    for seed in range(50):
        noise_row, noise_column = random_grads((2, 1), 1, seed, 0.01)[0], random_grads((1, 3), 1, seed + 99, 0.01)[0]
        assert divergence(row * noise_row.exp(), column / row.mean() * noise_column.exp()) > best


def test_adafactor_clips_the_update():
    """A row seen first at step 101 takes a raw step of 101^0.4; clipping keeps the RMS at 1."""
    grads = [tensor([[1.0, 1.0], [0.0, 0.0]])] * 100 + [tensor([[1.0, 1.0], [1.0, 1.0]])]
    path = run(
        lambda p: AdaFactor(p, lr=1.0, min_dim_size_to_factor=1, scale_parameter=False),
        torch.zeros(2, 2).double(),
        grads,
    )
    last = path[-2] - path[-1]
    assert float(last.square().mean().sqrt()) == pytest.approx(1.0)
    assert float(last[0, 0]) == pytest.approx(0.2205167214, abs=1e-9)


def test_adafactor_moves_a_zero_matrix():
    (after,) = run(lambda p: AdaFactor(p, lr=1.0), torch.zeros(3, 2).double(), random_grads((3, 2), 1))
    assert float(after.abs().max()) == pytest.approx(1e-3)


def test_adafactor_scalar_parameter():
    (after,) = run(lambda p: AdaFactor(p), tensor(0.7), [tensor(0.3)])
    assert float(after) == pytest.approx(0.6993, abs=1e-12)


def test_adafactor_relative_step_still_follows_a_schedule():
    """lr=None elsewhere ignores or breaks schedulers; here the group's lr is a factor of the relative step."""
    theta, grad = tensor(W0), [tensor(GW[0])]
    whole, half = AdaFactor.PRESETS["paper"], AdaFactor.PRESETS["paper"]
    (full_step,) = run(lambda p: AdaFactor(p, **whole), theta, grad)
    (half_step,) = run(lambda p: AdaFactor([{"params": p, "lr": 0.5}], **half), theta, grad)
    torch.testing.assert_close(half_step - theta, (full_step - theta) / 2)


def test_factored_dims():
    assert factored_dims((30, 20), "largest", 10) == (1, 0)
    assert factored_dims((20, 20), "largest", 10) == (0, 1)
    assert factored_dims((200, 3, 300, 3), "largest", 128) == (0, 2)
    assert factored_dims((200, 3, 300, 3), "last", 1) == (2, 3)
    assert factored_dims((200, 3, 300, 3), "last", 128) is None
    assert factored_dims((300, 300), "none", 1) is None
    assert factored_dims((300,), "last", 1) is None and factored_dims((), "largest", 1) is None


STEP_MOMENTUM = {"beta1": 0.9, "momentum_on": "step", "weight_decay": 0.1}


@pytest.mark.parametrize(
    ("shape", "compile", "options"),
    [
        ((1100, 300), False, {}),
        ((300, 1100), False, STEP_MOMENTUM),
        ((1100, 500), True, STEP_MOMENTUM),
        ((500, 1100), True, {"clip_threshold": None}),
    ],
)
def test_adafactor_passes_over_a_large_matrix_are_the_reference(shape, compile, options):
    """Large enough for the cache pieces and for the compiled passes; 1100 is no multiple of their block of rows."""
    theta, grads = random_grads(shape, 1, seed=1)[0], random_grads(shape, 3)
    path = run(lambda p: AdaFactor(p, lr=0.01, compile=compile, **options), theta, grads)
    options = {"clip" if name == "clip_threshold" else name: value for name, value in options.items()}
    assert_paths_close(path, adafactor(theta, grads, lr=lambda t: 0.01, factored=True, **options))


def test_adafactor_state_is_sublinear():
    param = torch.nn.Parameter(torch.ones(768, 768))
    optimizer = AdaFactor([param])
    param.grad = torch.ones(768, 768)
    optimizer.step()
    assert sum(t.numel() for t in optimizer.state[param].values()) == 768 + 768 + 1


def test_adafactor_group_without_factoring():
    param = torch.nn.Parameter(torch.ones(200, 200))
    optimizer = AdaFactor([{"params": [param], "factor": "none"}])
    param.grad = torch.ones(200, 200)
    optimizer.step()
    assert optimizer.state[param]["second_moment"].shape == (200, 200)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eps": (0.0, 1e-3)}, "0 / 0"),
        ({"factor": "all"}, "factor must"),
        ({"momentum_on": "grad"}, "momentum_on"),
        ({"clip_threshold": 0.0}, "clip_threshold"),
        ({"beta1": 0.999, "momentum_dtype": torch.bfloat16}, "cannot decay"),
        ({"decay_rate": 0.0}, "decay_rate"),
    ],
)
def test_adafactor_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        AdaFactor([torch.nn.Parameter(torch.zeros(1))], **options)


def test_small_tensors_of_one_size_and_two_shapes_step_as_alone():
    def steps(foreach):
        shapes = [(2, 3), (3, 2), (2, 3), (6,)]
        params = [
            tensor(torch.randn(shape, generator=torch.Generator().manual_seed(i))) for i, shape in enumerate(shapes)
        ]
        optimizer = AdaFactor(params, foreach=foreach)
        for step in range(3):
            for i, param in enumerate(params):
                param.grad = random_grads(param.shape, 1, seed=10 * step + i)[0]
            optimizer.step()
        return params

    for one, other in zip(steps(True), steps(False), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
