"""What every loss promises: precision, reductions, degenerate batches, compilation. The table is in cases.py."""

from __future__ import annotations

import inspect
import math

import pytest
import torch
from torch.func import grad, vmap

from suzoo import losses
from suzoo.losses import _common
from tests.losses.cases import CASES, Case, case_id

every_case = pytest.mark.parametrize("case", CASES, ids=case_id)
ignoring_case = pytest.mark.parametrize("case", [c for c in CASES if c.ignored is not None], ids=case_id)
reducing_case = pytest.mark.parametrize("case", [c for c in CASES if c.reduces], ids=case_id)


def draw(case: Case) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return case.scores(), case.labels()


def value_and_grad(loss, scores, labels, **options):
    scores = scores.clone().requires_grad_()
    value = loss(scores, labels, **options)
    (grad,) = torch.autograd.grad(value.sum(), scores)
    return value.detach(), grad


@pytest.mark.parametrize("case", [c for c in CASES if not c.detached], ids=case_id)
def test_gradient_is_the_derivative(case):
    scores, labels = draw(case)
    assert torch.autograd.gradcheck(lambda s: case(s, labels), scores.requires_grad_(), atol=1e-7)


@every_case
def test_order_of_the_rows_does_not_matter(case):
    scores, labels = draw(case)
    order = torch.randperm(len(scores))
    value, grad = value_and_grad(case, scores, labels)
    permuted, permuted_grad = value_and_grad(case, scores[order], labels[order])
    torch.testing.assert_close(permuted, value, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(permuted_grad, grad[order], rtol=1e-10, atol=1e-12)


@every_case
def test_float32_is_exact_and_low_precision_is_computed_in_float32(case):
    scores, labels = draw(case)
    exact, exact_grad = value_and_grad(case, scores, labels)
    value, grad = value_and_grad(case, scores.float(), labels)
    assert exact.dtype == torch.float64 and value.dtype == torch.float32
    torch.testing.assert_close(value.double(), exact, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(grad.double(), exact_grad, rtol=1e-5, atol=1e-5)
    for dtype in (torch.bfloat16, torch.float16):
        low, low_grad = value_and_grad(case, scores.to(dtype), labels)
        upcast, _ = value_and_grad(case, scores.to(dtype).float(), labels)
        assert low.dtype == torch.float32 and low_grad.dtype == dtype and low_grad.isfinite().all()
        assert low == upcast  # nothing was rounded but the scores themselves


@every_case
@pytest.mark.parametrize("size", [0, 1])
def test_a_batch_of_one_row_or_none(case, size):
    scores, labels = draw(case)
    value, grad = value_and_grad(case, scores[:size], labels[:size])
    assert value.isfinite() and grad.isfinite().all()
    if size == 0:
        assert value == 0


@every_case
def test_extreme_scores_stay_finite(case):
    scores, labels = draw(case)
    extreme = torch.where(torch.arange(scores.numel()).view(scores.shape) % 2 == 0, 1e4, -1e4)
    value, grad = value_and_grad(case, extreme, labels)
    assert value.isfinite() and grad.isfinite().all()


@every_case
def test_inputs_are_left_alone(case):
    scores, labels = draw(case)
    before = scores.clone(), labels.clone()
    value_and_grad(case, scores, labels)
    assert torch.equal(scores, before[0]) and torch.equal(labels, before[1])


@every_case
def test_compiles_without_a_graph_break(case):
    scores, labels = draw(case)
    torch.compiler.reset()
    compiled = torch.compile(case, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(
        value_and_grad(compiled, scores.float(), labels), value_and_grad(case, scores.float(), labels)
    )


@every_case
def test_autocast_changes_nothing(case):
    scores, labels = draw(case)

    def under_autocast(*inputs):  # a backward belongs outside
        with torch.autocast("cpu", torch.bfloat16):
            return case(*inputs)

    expected = value_and_grad(case, scores.float(), labels)
    actual = value_and_grad(under_autocast, scores.float(), labels)
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


MATRIX, COLUMN = torch.randn(4, 4), torch.randn(6, 4)
OF_MATRICES = {
    "heat_equation_loss": lambda: losses.heat_equation_loss(COLUMN[None], [MATRIX], block=[(2, 4)]),
    "heat_extrapolate": lambda: losses.heat_extrapolate(COLUMN[None], [MATRIX], [8], [1]),
    "heat_interpolate": lambda: losses.heat_interpolate(COLUMN, MATRIX[:1].expand(6, 4), 3),
    "CosineLinear": lambda: seeded(losses.CosineLinear, 4, 3)(COLUMN),
    "SoftmaxPairLoss": lambda: seeded(losses.SoftmaxPairLoss, 4)(COLUMN, COLUMN.flip(0), torch.arange(6) % 2),
    "estimate_margin": lambda: torch.tensor(losses.estimate_margin(COLUMN, torch.arange(6) % 4, MATRIX)),
    "global_pointer_divergence": lambda: losses.global_pointer_divergence(COLUMN, COLUMN.flip(0)),
    "symmetric_kl": lambda: losses.symmetric_kl(COLUMN, COLUMN.flip(0)),
}


def seeded(make, *sizes):
    torch.manual_seed(0)
    return make(*sizes)


@pytest.mark.parametrize("compute", OF_MATRICES.values(), ids=OF_MATRICES)
def test_autocast_changes_nothing_where_a_loss_multiplies_matrices(compute):
    expected = compute()
    with torch.autocast("cpu", torch.bfloat16):
        actual = compute()
    assert actual.dtype == torch.float32 and torch.equal(actual, expected)


@every_case
def test_gradients_of_every_example_by_vmap(case):
    """Those of losses that couple the batch are of batches of one."""
    scores, labels = draw(case)
    grads = vmap(grad(lambda row, label: case(row[None], label[None]).sum()))(scores, labels)
    each = [value_and_grad(case, scores[i : i + 1], labels[i : i + 1])[1] for i in range(len(scores))]
    torch.testing.assert_close(grads, torch.cat(each), rtol=1e-12, atol=1e-14)


@pytest.mark.slow
@every_case
def test_compiles_with_inductor(case):
    scores, labels = draw(case)
    torch.compiler.reset()
    compiled = torch.compile(case, fullgraph=True)
    torch.testing.assert_close(
        value_and_grad(compiled, scores.float(), labels), value_and_grad(case, scores.float(), labels)
    )


@pytest.mark.parametrize("case", [c for c in CASES if c.masked_class], ids=case_id)
def test_a_class_at_minus_infinity_is_a_class_that_is_not_there(case):
    scores, labels = draw(case)
    # a class in front that no row has for its target
    if labels.dim() == 1:
        shifted = labels + 1
    elif labels.shape == scores.shape:
        shifted = torch.cat([torch.zeros_like(labels[:, :1]), labels], 1)
    else:
        shifted = torch.where(labels >= 0, labels + 1, labels)
    with_class = torch.cat([scores.new_full((len(scores), 1), -torch.inf), scores], 1)
    value, grad = value_and_grad(case, scores, labels)
    masked, masked_grad = value_and_grad(case, with_class, shifted)
    torch.testing.assert_close(masked, value, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(masked_grad[:, 1:], grad, rtol=1e-10, atol=1e-12)
    assert (masked_grad[:, 0] == 0).all()


@ignoring_case
def test_ignored_rows_change_nothing(case):
    scores, labels = draw(case)
    value, grad = value_and_grad(case, scores, labels)
    more = torch.cat([scores, torch.randn_like(scores)])
    with_ignored = torch.cat([labels, torch.full_like(labels, case.ignored)])
    same, same_grad = value_and_grad(case, more, with_ignored)
    torch.testing.assert_close(same, value, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(same_grad[: len(scores)], grad, rtol=1e-10, atol=1e-12)
    assert (same_grad[len(scores) :] == 0).all()


@ignoring_case
def test_all_ignored_is_an_attached_zero(case):
    scores, labels = draw(case)
    value, grad = value_and_grad(case, scores, torch.full_like(labels, case.ignored))
    assert value == 0 and (grad == 0).all()


@pytest.mark.parametrize("can_look", [True, False], ids=["CPU", "accelerator"])
@pytest.mark.parametrize("case", [c for c in CASES if c.ignored and c.loss is not losses.supcon_loss], ids=case_id)
def test_an_ignored_row_of_logits_may_be_infinite(case, can_look, monkeypatch):
    monkeypatch.setattr(_common, "can_look", lambda tensor: can_look)
    scores, labels = draw(case)
    value, grad = value_and_grad(case, scores, labels)
    more = torch.cat([scores, torch.full_like(scores, -torch.inf)])
    with_ignored = torch.cat([labels, torch.full_like(labels, case.ignored)])
    same, same_grad = value_and_grad(case, more, with_ignored)
    torch.testing.assert_close(same, value, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(same_grad[: len(scores)], grad, rtol=1e-10, atol=1e-12)
    assert (same_grad[len(scores) :] == 0).all()


@pytest.mark.parametrize("case", [c for c in CASES if c.reduces and c.ignored is not None], ids=case_id)
@pytest.mark.parametrize("num_items", [0, torch.tensor(0)])
def test_a_step_without_labels_has_num_items_0(case, num_items):
    scores, labels = draw(case)
    value, grad = value_and_grad(case, scores, torch.full_like(labels, case.ignored), num_items=num_items)
    assert value == 0 and (grad == 0).all()


SCORES, CLASS, PAIR, HOT = torch.randn(4, 2), torch.tensor([0, 1, 1, 0]), torch.randn(4), torch.tensor([1, 0, 0, 1])
WRONG_OPTIONS = [
    (losses.cross_entropy_loss, (SCORES, CLASS), "label_smoothing", (-0.1, 2)),
    (losses.cross_entropy_loss, (SCORES, CLASS), "z_loss", (-1,)),
    (losses.focal_loss, (SCORES, CLASS), "gamma", (-1,)),
    (losses.binary_focal_loss, (PAIR, HOT), "gamma", (-1,)),
    (losses.binary_focal_loss, (PAIR, HOT), "alpha", (-0.1, 25)),
    (losses.soft_truncation_loss, (PAIR, HOT), "slope", (0,)),
    (losses.f1_weighted_bce, (PAIR, HOT), "f1", (-0.1, 30)),
    (losses.dice_loss, (PAIR, HOT), "smoothing", (-1,)),
    (losses.rdrop_loss, (SCORES, SCORES, CLASS), "alpha", (-1,)),
    (losses.class_log_prior, (torch.tensor([3, 4]),), "smoothing", (-3,)),
    (losses.cosent_loss, (PAIR, HOT), "scale", (0, -20, math.inf)),
    (losses.contrastive_loss, (SCORES, SCORES), "scale", (0, -20, math.inf)),
    (losses.supcon_loss, (SCORES, CLASS), "scale", (0, -10, math.inf)),
    (losses.am_softmax_loss, (SCORES, CLASS), "scale", (0, -30, math.inf)),
    (losses.arcface_loss, (SCORES, CLASS), "scale", (0, -64, math.inf)),
]


@pytest.mark.parametrize(
    ("loss", "inputs", "option", "values"), WRONG_OPTIONS, ids=[f"{row[0].__name__}-{row[2]}" for row in WRONG_OPTIONS]
)
def test_options_outside_their_range_are_refused(loss, inputs, option, values):
    for value in (*values, math.nan):
        with pytest.raises(ValueError, match=option):
            loss(*inputs, **{option: value})


@reducing_case
def test_reductions_agree(case):
    scores, labels = draw(case)
    each = case(scores, labels, reduction="none")
    assert each.shape == scores.shape[: each.dim()] and each.dim() >= 1
    mean, total = case(scores, labels), case(scores, labels, reduction="sum")
    torch.testing.assert_close(each.sum(), total)
    torch.testing.assert_close(each.mean(), mean)
    torch.testing.assert_close(case(scores, labels, num_items=7), total / 7)
    torch.testing.assert_close(case(scores, labels, num_items=torch.tensor(7)), total / 7)
    with pytest.raises(ValueError, match="reduction must be"):
        case(scores, labels, reduction="average")
    with pytest.raises(ValueError, match="num_items is the divisor"):
        case(scores, labels, reduction="sum", num_items=7)


@reducing_case
def test_sums_over_micro_batches_make_the_whole(case):
    """With num_items the accumulated loss of unequal parts is the loss of the batch, as token counts need."""
    scores, labels = draw(case)
    num_items = case(scores, labels, reduction="none").numel()
    parts = [case(s, y, num_items=num_items) for s, y in zip(scores.split([1, 5]), labels.split([1, 5]), strict=True)]
    torch.testing.assert_close(sum(parts), case(scores, labels))


def test_every_public_loss_has_a_source_and_no_catch_all():
    for name in losses.__all__:
        thing = getattr(losses, name)
        assert thing.__doc__, name
        kinds = {p.kind for p in inspect.signature(thing).parameters.values()}
        assert inspect.Parameter.VAR_KEYWORD not in kinds, f"{name} would swallow a typo"
