"""Contrastive losses, FlatNCE and AnglE: both SimCSEs, duplicates, and two ranks as one process."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator

from suzoo import distributed
from suzoo.distributed import gather
from suzoo.engine import batch_coupled_backward
from suzoo.losses import (
    angle_scores,
    contrastive_logits,
    contrastive_loss,
    cosent_loss,
    dice_loss,
    estimate_margin,
    f1_weighted_bce,
    flat_nce_loss,
    supcon_loss,
)
from tests.losses.helpers import assert_values, double, grad_of
from tests.ranks import run_ranks
from tests.reference.contrastive import contrastive_loss_reference, supcon_loss_reference

ANCHORS = double([[1, 0, 1], [-1, 0.5, 0], [0.2, 1, 0.3]])
POSITIVES = double([[1, 0.2, 0.8], [-0.9, 0.7, 0.1], [0, 0.9, 0.5]])
HARD = double([[0, 1, 1], [1, 0.5, 0], [0.2, -1, 0.3]])


def test_contrastive_oracle():
    assert_values(contrastive_loss(ANCHORS, POSITIVES), 3.34877194197e-05)
    assert_values(contrastive_loss(ANCHORS, POSITIVES, negatives="all"), 0.000173823278723)
    assert_values(contrastive_loss(ANCHORS, POSITIVES, hard_negatives=HARD), 0.0473041462151)


@pytest.mark.parametrize("negatives", ["cross", "all"])
@pytest.mark.parametrize("num_hard", [0, 2])
@pytest.mark.parametrize("ids", [None, [5, 1, 5, 2, 1]])
def test_contrastive_is_the_double_loop(negatives, num_hard, ids):
    torch.manual_seed(0)
    a, p = torch.randn(2, 5, 4, dtype=torch.float64)
    hard = torch.randn(5, num_hard, 4, dtype=torch.float64) if num_hard else None

    def ours(a, p):
        keys = None if ids is None else torch.tensor(ids)
        return contrastive_loss(a, p, scale=3.0, negatives=negatives, hard_negatives=hard, ids=keys)

    def slow(a, p):
        return contrastive_loss_reference(a, p, scale=3.0, negatives=negatives, hard=hard, ids=ids)

    torch.testing.assert_close(ours(a, p), slow(a, p))
    torch.testing.assert_close(grad_of(ours, a, p), grad_of(slow, a, p))


def test_contrastive_ids_of_several_columns_match_in_any():
    queries_and_documents = torch.tensor([[0, 7], [1, 8], [0, 9]])  # rows 0 and 2 ask the same
    logits, target = contrastive_logits(ANCHORS, POSITIVES, ids=queries_and_documents)
    assert (logits == -math.inf).nonzero().tolist() == [[0, 2], [2, 0]] and target.tolist() == [0, 1, 2]


def test_contrastive_hard_negative_weight_goes_to_a_rows_own():
    plain, _ = contrastive_logits(ANCHORS, POSITIVES, hard_negatives=HARD)
    weighted, _ = contrastive_logits(ANCHORS, POSITIVES, hard_negatives=HARD, hard_negative_weight=2.0)
    torch.testing.assert_close((weighted - plain)[:, 3:], 2 * torch.eye(3, dtype=torch.float64))
    assert torch.equal(weighted[:, :3], plain[:, :3])


def test_contrastive_similarities_are_float32_under_autocast():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits, _ = contrastive_logits(ANCHORS.float(), POSITIVES.float())
    torch.testing.assert_close(logits, contrastive_logits(ANCHORS.float(), POSITIVES.float())[0])


def test_contrastive_rejects_bad_input():
    with pytest.raises(ValueError, match=r"anchors and positives \(B, D\)"):
        contrastive_loss(ANCHORS, POSITIVES[:2])
    with pytest.raises(ValueError, match="'cross' or 'all'"):
        contrastive_loss(ANCHORS, POSITIVES, negatives="both")
    with pytest.raises(ValueError, match=r"takes ids \(3,\)"):
        contrastive_loss(ANCHORS, POSITIVES, ids=torch.zeros(2))
    with pytest.raises(ValueError, match="hard_negatives"):
        contrastive_loss(ANCHORS, POSITIVES, hard_negatives=HARD[:, :2])


def test_supcon_oracle_and_loop():
    features = double([[1, 0], [0.9, 0.1], [0, 1], [-0.2, 1]])
    assert_values(supcon_loss(features, torch.tensor([0, 0, 1, 1])), 0.00011833355353)
    torch.manual_seed(0)
    embeddings, labels = torch.randn(7, 3, dtype=torch.float64), torch.tensor([0, 1, 0, 2, 1, 0, 3])
    ours, slow = (lambda z, f=f: f(z, labels, scale=4.0) for f in (supcon_loss, supcon_loss_reference))
    torch.testing.assert_close(ours(embeddings), slow(embeddings))
    torch.testing.assert_close(grad_of(ours, embeddings), grad_of(slow, embeddings))


def test_supcon_without_any_positive_is_an_attached_zero():
    embeddings = torch.randn(4, 3)
    for labels in (torch.arange(4), torch.tensor([0, -100, -100, 1])):
        assert supcon_loss(embeddings, labels) == 0
        assert (grad_of(lambda z, y=labels: supcon_loss(z, y), embeddings) == 0).all()
    with pytest.raises(ValueError, match="supcon_loss takes"):
        supcon_loss(embeddings, torch.zeros(3))


LOGITS, TARGET = double([[8, 1, 2, -1], [0.5, 3, 2.5, 1]]), torch.tensor([0, 1])


def test_flat_nce_oracle():
    assert_values(flat_nce_loss(LOGITS, TARGET, reduction="none"), [-5.65098778323, -0.193644287771])
    infonce = [0.00350788412026, 0.601004995223]
    for form in ("detach", "softplus"):
        assert_values(flat_nce_loss(LOGITS, TARGET, form=form, reduction="none"), infonce)
    flat = [
        [-0.5, 0.129748230171, 0.352692256349, 0.0175595134797],
        [0.0498118240312, -0.5, 0.368062362156, 0.0821258138125],
    ]
    for form in ("log", "detach"):
        assert_values(grad_of(lambda x, f=form: flat_nce_loss(x, TARGET, form=f), LOGITS), flat)
    # per row, FlatNCE is InfoNCE with the gradient divided by 1 - p
    ratio = grad_of(lambda x: flat_nce_loss(x, TARGET), LOGITS) / grad_of(lambda x: F.cross_entropy(x, TARGET), LOGITS)
    torch.testing.assert_close(ratio, double([[285.572422906], [2.21366449086]]).expand(2, 4), rtol=1e-9, atol=0)


@pytest.mark.parametrize("gap", [8.0, 14.0, 24.0, 32.0])
def test_flat_nce_and_its_control_keep_the_pull_on_an_easy_positive(gap):
    logits, target = torch.zeros(1, 64), torch.tensor([0])
    logits[0, 0] = gap
    xi = 63 * math.exp(-gap)
    assert grad_of(lambda x: flat_nce_loss(x, target), logits)[0, 0] == -1
    control = grad_of(lambda x: flat_nce_loss(x, target, form="softplus"), logits)[0, 0]
    assert control.item() == pytest.approx(-xi / (1 + xi), rel=1e-6)
    if gap >= 24:
        assert grad_of(lambda x: F.cross_entropy(x, target), logits)[0, 0] == 0  # what both remedy


def test_flat_nce_leaves_out_rows_without_a_negative():
    logits = torch.cat([LOGITS, double([[1, -math.inf, -math.inf, -math.inf]])])
    target = torch.tensor([0, 1, 0])
    for form in ("log", "detach", "softplus"):
        mine = lambda x, t, f=form: flat_nce_loss(x, t, form=f)  # noqa: E731
        torch.testing.assert_close(mine(logits, target), mine(LOGITS, TARGET))
        assert (grad_of(lambda x, f=mine: f(x, target), logits)[2] == 0).all()
        assert mine(torch.ones(2, 1), torch.tensor([0, 0])) == 0  # one candidate, no negative
    with pytest.raises(ValueError, match="form must be"):
        flat_nce_loss(LOGITS, TARGET, form="paper")


def test_flat_nce_of_both_views():
    z = double([[1, 0, 1], [1, 0.2, 0.8], [-1, 0.5, 0], [-0.9, 0.7, 0.1]])
    logits, target = contrastive_logits(z[::2], z[1::2], negatives="all")
    assert_values(F.cross_entropy(logits, target), 2.53297383068e-13, rel=1e-3)  # what cancellation leaves of it
    assert_values(flat_nce_loss(logits, target), -29.4778094142)


def test_angle_scores_oracle():
    u = double([[1, 2, 0, 1], [0, 1, -1, 2], [3, 0, 1, 1]])
    v = double([[2, 1, 1, 0], [1, 1, 1, 0], [1, -1, 2, 2]])
    assert_values(angle_scores(u, v), [0.666666666667, 0.235702260396, 0.0953462589246])
    assert_values(angle_scores(v, u)[2], 1.23950136602)  # not symmetric, as published
    assert_values(cosent_loss(angle_scores(u, v), torch.tensor([1, 0, 2])), 11.4265996309)
    product = torch.complex(*u.chunk(2, 1)) * torch.complex(*v.chunk(2, 1)).conj()
    lengths = u.norm(dim=1) * v.norm(dim=1)
    torch.testing.assert_close(angle_scores(u, v), (product.real + product.imag).sum(1).abs() / lengths)
    with pytest.raises(ValueError, match="D even"):
        angle_scores(u[:, :3], v[:, :3])


def embedding_batch():
    torch.manual_seed(5)
    inputs = torch.randn(3, 7, 4, dtype=torch.float64)  # two views and a hard negative of 7 rows
    return inputs, torch.tensor([0, 1, 2, 0, 1, 3, 4]), torch.nn.Linear(4, 3).double()


def coupled_losses(outputs, labels) -> dict[str, Callable[[], torch.Tensor]]:
    """From the outputs (7, 3, D) of all three inputs of each row."""
    a, p, hard = outputs.unbind(1)
    return {
        "cross": lambda: contrastive_loss(a, p, hard_negatives=hard, hard_negative_weight=0.5, ids=labels, scale=5.0),
        "all": lambda: contrastive_loss(a, p, negatives="all", ids=labels, scale=5.0),
        "supcon": lambda: supcon_loss(a, labels, scale=3.0),
        "cosent": lambda: cosent_loss(gather(F.cosine_similarity(a, p)), gather(labels), scale=3.0),
        "dice": lambda: dice_loss(a, F.one_hot(labels % 3, 3)),
        "f1": lambda: f1_weighted_bce(a, F.one_hot(labels % 3, 3), num_items=21 / distributed.world_size()),
    }


def gradients_of_a_rank(num_micro_batches: int) -> dict[str, tuple]:
    """Averaged by DDP, with accumulation by cached gradients; ranks of unequal size, with duplicates across them."""
    inputs, labels, encoder = embedding_batch()
    mine = slice(0, 4) if distributed.rank() == 0 else slice(4, 7)
    if not distributed.is_distributed():
        mine = slice(0, 7)
    accelerator = Accelerator(cpu=True)
    prepared = accelerator.prepare(encoder)
    rows = inputs.transpose(0, 1)[mine].tensor_split(num_micro_batches)
    results = {}
    for name in ("cross", "all", "supcon", "cosent", "dice", "f1"):
        encoder.zero_grad()
        loss = batch_coupled_backward(
            accelerator, prepared, rows, prepared, lambda out, name=name: coupled_losses(out, labels[mine])[name]()
        )
        results[name] = distributed.all_reduce_mean(loss), encoder.weight.grad.clone()
    margin = estimate_margin(encoder(inputs[0, mine]), labels[mine], torch.eye(5, 3, dtype=torch.float64))
    results["margin"] = torch.tensor(margin), torch.tensor(0.0)
    return results


@pytest.mark.parametrize("num_micro_batches", [1, 2])
def test_ranks_and_micro_batches_are_one_process(num_micro_batches):
    inputs, labels, encoder = embedding_batch()
    alone = gradients_of_a_rank(1)
    for name, compute in coupled_losses(encoder(inputs.transpose(0, 1)), labels).items():
        value = compute()
        (grad,) = torch.autograd.grad(value, encoder.weight, retain_graph=True)
        torch.testing.assert_close(alone[name], (value.detach(), grad), rtol=1e-12, atol=1e-14)
    for results in [gradients_of_a_rank(num_micro_batches), *run_ranks(gradients_of_a_rank, num_micro_batches)]:
        torch.testing.assert_close(results, alone, rtol=1e-10, atol=1e-13)
