"""Cross-entropy with smoothing and z-loss against torch, the oracle and torch's known NaNs."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from suzoo.losses import cross_entropy_loss
from tests.losses.helpers import assert_values, double

LOGITS = double([[2, 0, -1, 0.5], [0, 3, 1, -2], [1, 1, 1, 1]])
LABELS = torch.tensor([0, 2, -100])


def test_cross_entropy_oracle():
    assert_values(cross_entropy_loss(LOGITS, LABELS), 1.2589324725)
    assert_values(cross_entropy_loss(LOGITS, LABELS, label_smoothing=0.1), 1.3651824725)
    assert_values(cross_entropy_loss(LOGITS, LABELS, z_loss=1e-4), 1.2589324725 + 0.000778524969217)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_cross_entropy_is_torchs(smoothing):
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 3, 4, dtype=torch.float64), torch.randint(0, 4, (2, 3))
    labels[0, 1] = -100
    for reduction in ("mean", "sum", "none"):
        torch.testing.assert_close(
            cross_entropy_loss(logits, labels, label_smoothing=smoothing, reduction=reduction),
            F.cross_entropy(logits.transpose(1, 2), labels, label_smoothing=smoothing, reduction=reduction),
        )


def test_cross_entropy_where_torch_is_not_finite():
    nothing = torch.full((3,), -100)
    assert F.cross_entropy(LOGITS, nothing).isnan() and cross_entropy_loss(LOGITS, nothing) == 0
    masked = torch.cat([LOGITS, torch.full((3, 1), -math.inf)], 1)
    assert F.cross_entropy(masked, LABELS, label_smoothing=0.1).isinf()
    assert_values(cross_entropy_loss(masked, LABELS, label_smoothing=0.1), 1.3651824725)


def test_cross_entropy_rejects_bad_smoothing():
    with pytest.raises(ValueError, match="label_smoothing"):
        cross_entropy_loss(LOGITS, LABELS, label_smoothing=2)
