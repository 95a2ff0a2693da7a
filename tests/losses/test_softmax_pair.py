"""Sentence-BERT's classifier over [u; v; |u - v|]."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from suzoo.losses import SoftmaxPairLoss


def test_softmax_pair_classifies_the_two_vectors_and_their_difference():
    torch.manual_seed(0)
    u, v, classes = torch.randn(5, 3), torch.randn(5, 3), torch.tensor([0, 1, 1, 0, 1])
    loss = SoftmaxPairLoss(3)
    weight_u, weight_v, weight_gap = loss.classifier.weight.split(3, dim=1)
    logits = u @ weight_u.T + v @ weight_v.T + (u - v).abs() @ weight_gap.T + loss.classifier.bias
    torch.testing.assert_close(loss(u, v, classes), F.cross_entropy(logits, classes))
    assert loss(u.bfloat16(), v.bfloat16(), classes).dtype == torch.float32
    with pytest.raises(ValueError, match="at least 2"):
        SoftmaxPairLoss(3, num_classes=1)
