from __future__ import annotations

import pytest
import torch

from suzoo.optimizers import Lion
from tests.optimizers._run import assert_paths_close, random_grads, run, tensor
from tests.reference.optimizers import lion

THETA = [0.5, -1.0, 2.0]
GRADS = [[0.1, -0.2, 0.0], [-0.02, 0.5, 0.0], [-0.3, 0.01, 0.4]]


@pytest.mark.parametrize("foreach", [False, True])
def test_lion_oracle_values(foreach):
    path = run(
        lambda p: Lion(p, lr=0.01, betas=(0.9, 0.99), weight_decay=0.1, foreach=foreach),
        tensor(THETA),
        [tensor(g) for g in GRADS],
    )
    expected = [
        [0.4895, -0.989, 1.998],
        [0.4990105, -0.998011, 1.996002],
        [0.5085114895, -1.0070129890, 1.9840059980],
    ]
    assert_paths_close(path, [tensor(e) for e in expected], atol=1e-10)


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("betas", [(0.9, 0.99), (0.95, 0.98), (0.0, 0.0)])
def test_lion_is_the_reference(betas, foreach):
    theta, grads = random_grads((5, 3), 1, seed=1)[0], random_grads((5, 3), 20)
    options = {"lr": 0.01, "betas": betas, "weight_decay": 0.1}
    assert_paths_close(run(lambda p: Lion(p, foreach=foreach, **options), theta, grads), lion(theta, grads, **options))


def test_lion_moves_every_element_by_lr():
    """The property that names it: only the sign of the direction counts, whatever the size of the gradient."""
    theta = tensor([1.0, 1.0, 1.0])
    (after,) = run(lambda p: Lion(p, lr=0.5), theta, [tensor([1e-20, -1e20, 0.0])])
    assert after.tolist() == [0.5, 1.5, 1.0]


def test_lion_leaves_a_dead_coordinate_to_the_decay():
    path = run(lambda p: Lion(p, lr=0.1, weight_decay=0.5), tensor([2.0]), [tensor([0.0])] * 2)
    assert_paths_close(path, [tensor([2.0 * 0.95]), tensor([2.0 * 0.95**2])])


def test_lion_lazy_leaves_rows_without_gradient_alone():
    theta, grads = random_grads((4, 3), 1, seed=1)[0], random_grads((4, 3), 6)
    for t, grad in enumerate(grads):
        grad[t % 2 :: 2] = 0  # every row has a gradient at every second step only
    path = run(lambda p: Lion(p, lr=0.1, weight_decay=0.3, lazy=True), theta, grads)
    rows = [lion(theta[i], [g[i] for g in grads if g[i].any()], lr=0.1, weight_decay=0.3)[-1] for i in range(4)]
    assert_paths_close([path[-1]], [torch.stack(rows)])


def test_lion_lazy_can_be_set_per_group():
    a, b = (torch.nn.Parameter(torch.ones(2, 2)) for _ in range(2))
    optimizer = Lion([{"params": [a], "lazy": True}, {"params": [b]}], lr=0.1, weight_decay=1.0)
    a.grad, b.grad = torch.zeros(2, 2), torch.zeros(2, 2)
    optimizer.step()
    assert a.tolist() == [[1.0, 1.0]] * 2
    torch.testing.assert_close(b.detach(), torch.full((2, 2), 0.9))
