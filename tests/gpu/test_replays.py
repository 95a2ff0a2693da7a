"""Vectors and gradients of ragged batches, replays of dropout, and a loss that reads nothing."""

from __future__ import annotations

import pytest
import torch
from accelerate import Accelerator

from suzoo.data import flat_batch
from suzoo.engine import batch_coupled_backward
from suzoo.losses import cosent_loss
from suzoo.models import CoSENTModel
from suzoo.regularizers import vat_loss
from tests.tiny import tiny_config

pytestmark = pytest.mark.gpu
# 64 tokens and one: where a backward of cuDNN had NaN
ROWS = [[5, 6, 7], list(range(5, 37)) * 2, [8], [9, 5, 6, 7, 8] * 3]


@pytest.fixture
def model(device):
    torch.manual_seed(0)
    return CoSENTModel(tiny_config(), pooling="mean").to(device)


def test_vectors_and_gradients_are_those_of_the_cpu(model):
    model.eval()
    reference = CoSENTModel(tiny_config(), pooling="mean").eval().double()
    reference.load_state_dict(model.state_dict())
    for one in (model, reference):
        batch = flat_batch(ROWS, device=next(one.parameters()).device)
        one(**batch).sentence_embedding.square().mean().backward()
    for (name, ours), exact in zip(model.named_parameters(), reference.parameters(), strict=True):
        if exact.grad is not None:
            assert ours.grad.isfinite().all(), name
            assert (ours.grad.cpu() - exact.grad).norm() <= 1e-3 * exact.grad.norm() + 1e-9, name


def test_a_replay_draws_the_same_dropout(model, device):
    model.train()
    passes = []

    def embed(batch):
        passes.append(model(**batch).sentence_embedding)
        return passes[-1]

    parts = [flat_batch(ROWS[start : start + 2], device=device) for start in (0, 2)]
    accelerator = Accelerator(cpu=device.type == "cpu")
    batch_coupled_backward(accelerator, model, parts, embed, lambda vectors: vectors.square().mean())
    for first, again in zip(passes[:2], passes[2:], strict=True):
        torch.testing.assert_close(first, again)
    divergence = vat_loss(lambda: embed(parts[0]), model.get_input_embeddings(), epsilon=0.0)
    assert float(divergence.detach()) < 1e-6


def test_the_loss_reads_nothing_and_is_that_of_the_cpu(device):
    scores, labels = torch.linspace(-1, 1, 9), torch.arange(9.0) % 4
    found = cosent_loss(scores.to(device), labels.to(device))
    torch.testing.assert_close(found.cpu(), cosent_loss(scores.double(), labels).float())
