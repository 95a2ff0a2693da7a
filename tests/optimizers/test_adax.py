from __future__ import annotations

import math

import pytest
import torch

from suzoo.optimizers import AdaX, AdaXW
from tests.optimizers._run import assert_paths_close, random_grads, run, tensor
from tests.reference.optimizers import adax

THETA = [1.0, -2.0]
GRADS = [[0.5, -1.0], [0.25, 2.0], [-0.1, 0.5]]
ORACLE = {
    "official": (
        AdaX,
        {"lr": 1.5e-3, "eps": 1e-12, "weight_decay": 5e-4, "eps_placement": "raw"},
        [[0.99985, -1.99985], [0.9995843310, -1.9999541973], [0.9993414924, -2.0001228871]],
    ),
    "official W": (AdaXW, {}, [[0.99925, -1.999], [0.9981147630, -1.9988481058], [0.9970570220, -1.9989115568]]),
    "bojone V1": (
        AdaX,
        {"eps": 1e-7, "eps_placement": "raw"},
        [[0.9999000020, -1.9999000010], [0.9997229203, -1.9999695718], [0.9995612807, -2.0000822040]],
    ),
    "bojone V2": (
        AdaX,
        {},
        [[0.9999000002, -1.9999000001], [0.9997229158, -1.9999695712], [0.9995612738, -2.0000822037]],
    ),
    "article": (
        AdaX,
        {"eps_placement": "inside"},
        [[0.9999000002, -1.9999000001], [0.9997229159, -1.9999695712], [0.9995612742, -2.0000822038]],
    ),
}


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("name", ORACLE)
def test_adax_oracle_values(name, foreach):
    cls, options, expected = ORACLE[name]
    path = run(lambda p: cls(p, foreach=foreach, **options), tensor(THETA), [tensor(g) for g in GRADS])
    assert_paths_close(path, [tensor(e) for e in expected], atol=1e-10)


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("eps_placement", ["root", "inside", "raw"])
@pytest.mark.parametrize("cls", [AdaX, AdaXW])
def test_adax_is_the_paper_s_growing_form(cls, eps_placement, foreach):
    theta, grads = random_grads((5, 3), 1, seed=1)[0], random_grads((5, 3), 30)
    options = {"lr": 0.01, "eps": 1e-3, "weight_decay": 0.1, "eps_placement": eps_placement}
    path = run(lambda p: cls(p, foreach=foreach, **options), theta, grads)
    assert_paths_close(path, adax(theta, grads, decoupled=cls is AdaXW, **options))


def test_adax_weights_of_the_newest_square():
    """β̂2 of the article: 0 at first, about 1 - 1/t early, towards 1."""
    expected = {1: 0.0, 2: 0.5000249988, 10: 0.9000449918, 1000: 0.9990491168, 100_000: 0.9999999955}
    (group,) = AdaX([torch.nn.Parameter(torch.zeros(1))]).param_groups
    for t, beta2 in expected.items():
        assert 1 - AdaX.rule.derived(group, None, float(t))["weight"] == pytest.approx(beta2, abs=1e-10)


def test_adax_forgets_nothing():
    """The property that names it: late in training the second moment stays, where Adam's would have decayed."""
    param = torch.nn.Parameter(torch.zeros(1))
    optimizer = AdaX([param])
    for t in range(400):
        param.grad = torch.ones(1) if t < 200 else torch.zeros(1)
        optimizer.step()
    # about the plain mean of all squares
    assert optimizer.state[param]["second_moment"].item() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("cls", [AdaX, AdaXW])
def test_adax_stays_finite_where_the_raw_moment_overflows(cls):
    param = torch.nn.Parameter(torch.ones(2))
    optimizer = cls([param], lr=1e-3, eps_placement="raw", weight_decay=0.0)
    for step in (900_000.0, 8_000_000.0, 16_000_000.0):
        param.grad = torch.tensor([1.0, 0.0])  # the second coordinate never had a gradient
        optimizer.step()
        assert param.isfinite().all() and param[1] == 1
        assert param[0] < 1
        optimizer.state[param]["step"].fill_(step)


def test_adax_first_step_is_a_tenth_of_lr():
    (after,) = run(lambda p: AdaX(p, lr=0.1, eps=1e-12), tensor([0.0, 0.0]), [tensor([3.0, -1e-3])])
    assert_paths_close([after], [tensor([-0.01, 0.01])], atol=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"betas": (0.9, 0.999)}, "growth rate"),
        ({"betas": (1.0, 1e-4)}, "betas must be"),
        ({"eps": 0.0}, "0 / 0"),
        ({"eps_placement": "outside"}, "eps_placement"),
        ({"lr": -1.0}, "lr must be"),
        ({"lr": math.nan}, "lr must be"),
    ],
)
@pytest.mark.parametrize("cls", [AdaX, AdaXW])
def test_adax_refuses(cls, options, message):
    with pytest.raises(ValueError, match=message):
        cls([torch.nn.Parameter(torch.zeros(1))], **options)
