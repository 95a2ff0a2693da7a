"""Distillation: values and gradients of the slow form, and what the losses do not see.

Two processes: tests/training/test_train_distill.py.
"""

from __future__ import annotations

import pytest
import torch

from suzoo.losses import cosine_distillation_loss, relation_distillation_loss
from tests.reference.distillation import cosine_distillation_reference, relation_distillation_reference


def draw(num_texts: int = 7, student: int = 4, teacher: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(num_texts)
    return torch.randn(num_texts, student, dtype=torch.float64), torch.randn(num_texts, teacher, dtype=torch.float64)


def turn(size: int) -> torch.Tensor:
    """A random rotation."""
    return torch.linalg.qr(torch.randn(size, size, dtype=torch.float64))[0]


@pytest.mark.parametrize("num_texts", [1, 2, 7])
def test_cosine_is_the_slow_form(num_texts):
    student, teacher = draw(num_texts)
    expected = cosine_distillation_reference(student.tolist(), teacher.tolist())
    assert cosine_distillation_loss(student, teacher).item() == pytest.approx(expected, rel=1e-12)
    assert torch.autograd.gradcheck(lambda s: cosine_distillation_loss(s, teacher), student.requires_grad_())


@pytest.mark.parametrize("num_texts", [3, 7])
@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_relations_are_the_slow_form(num_texts, scale):
    student, teacher = draw(num_texts, student=3, teacher=5)
    expected = relation_distillation_reference(student.tolist(), teacher.tolist(), scale)
    assert relation_distillation_loss(student, teacher, scale=scale).item() == pytest.approx(expected, rel=1e-11)
    loss = lambda s: relation_distillation_loss(s, teacher, scale=scale)  # noqa: E731
    assert torch.autograd.gradcheck(loss, student.requires_grad_())


def test_lengths_say_nothing_and_the_teacher_learns_nothing():
    student, teacher = draw()
    for loss in (cosine_distillation_loss, relation_distillation_loss):
        lengths = torch.rand(7, 1, dtype=torch.float64) + 0.1
        torch.testing.assert_close(loss(student * lengths, teacher / lengths), loss(student, teacher))
        given = teacher.clone().requires_grad_()
        loss(student.clone().requires_grad_(), given).backward()
        assert given.grad is None


def test_relations_do_not_see_a_turn_and_the_cosine_does():
    student, _ = draw(student=5)
    turned = student @ turn(5)
    assert relation_distillation_loss(turned, student).item() == pytest.approx(0, abs=1e-12)
    assert cosine_distillation_loss(student, student).item() == pytest.approx(0, abs=1e-12)
    assert cosine_distillation_loss(turned, student) > 0.1
    larger = torch.cat([student, torch.zeros(7, 3, dtype=torch.float64)], 1) @ turn(8)  # the same cosines in 8 numbers
    assert relation_distillation_loss(student, larger).item() == pytest.approx(0, abs=1e-12)


def test_steps_down_the_gradient_bring_the_teachers_cosines():
    _, teacher = draw(7, teacher=4)
    torch.manual_seed(1)
    student = torch.randn(7, 4, dtype=torch.float64).requires_grad_()
    optimizer = torch.optim.Adam([student], lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        relation_distillation_loss(student, teacher, scale=5.0).backward()
        optimizer.step()
    found, wanted = (torch.nn.functional.normalize(v, dim=-1) for v in (student.detach(), teacher))
    torch.testing.assert_close(found @ found.T, wanted @ wanted.T, atol=0.02, rtol=0)


@pytest.mark.parametrize("num_texts", [0, 1, 2])
def test_nothing_to_choose_is_an_attached_zero(num_texts):
    student, teacher = draw(num_texts)
    value = relation_distillation_loss(student.requires_grad_(), teacher)
    value.backward()
    assert value == 0 and student.grad is not None and not student.grad.any()


def test_shapes_that_do_not_compare():
    student, teacher = draw(student=3, teacher=4)
    with pytest.raises(ValueError, match="compare by relation_distillation_loss"):
        cosine_distillation_loss(student, teacher)
    with pytest.raises(ValueError, match=r"not \(7, 3\) and \(6, 4\)"):
        relation_distillation_loss(student, teacher[:6])
    with pytest.raises(ValueError, match="scale must be positive"):
        relation_distillation_loss(student, teacher, scale=0)
