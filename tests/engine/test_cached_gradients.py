"""One large batch, its micro-batches and two ranks give the same CoSENT gradient."""

from __future__ import annotations

from itertools import chain

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import DistributedType

from suzoo.distributed import gather
from suzoo.engine import RandomBatches, batch_coupled_backward
from suzoo.losses import cosent_loss
from suzoo.models import CoSENTModel
from tests.ranks import run_ranks
from tests.tiny import PAIRS, flatten, tiny_config, tiny_tokenizer

LABELS = [3.0, 5.0, 1.0, 0.0, 2.0, 0.0, 4.0, 1.0]
TEXTS = [*PAIRS, PAIRS[0][::-1], (PAIRS[2][0], PAIRS[3][1])]


def collate(examples):
    ids = tiny_tokenizer()([text for (pair, _) in examples for text in pair])["input_ids"]
    flat, lengths = flatten(ids)
    return {"input_ids": flat, "lengths": lengths}, torch.tensor([label for _, label in examples])


def model_of(family: str, dropout: float) -> CoSENTModel:
    torch.manual_seed(5)
    key = "dropout" if family == "distilbert" else "hidden_dropout_prob"
    config = tiny_config(family, **{key: dropout, "attention_probs_dropout_prob": 0.0, "attention_dropout": 0.0})
    return CoSENTModel(config, pooling="mean").train().double()


def gradients(family: str, num_micro_batches: int, dropout: float = 0.0, seen: list | None = None) -> dict:
    """Loss and gradients of one step over the 8 pairs, on however many ranks run this."""
    accelerator = Accelerator(cpu=True)
    model = model_of(family, dropout)
    prepared = accelerator.prepare(model)
    batches = RandomBatches(
        list(zip(TEXTS, LABELS, strict=True)), batch_size=8, collate=collate, num_micro_batches=num_micro_batches
    )
    micro_batches = batches[0]
    labels = gather(torch.cat([labels for _, labels in micro_batches]))

    def cosines(micro_batch):
        vectors = prepared(**micro_batch[0]).sentence_embedding
        scores = F.cosine_similarity(vectors[0::2], vectors[1::2])
        if seen is not None:
            seen.append(scores.detach().clone())
        return scores

    torch.manual_seed(7)
    loss = batch_coupled_backward(
        accelerator, prepared, micro_batches, cosines, lambda scores: cosent_loss(gather(scores), labels)
    )
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"loss": loss, "grads": grads}


def assert_same(one: dict, other: dict, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(one["loss"], other["loss"], rtol=0, atol=tolerance)
    assert one["grads"].keys() == other["grads"].keys()
    for name, grad in one["grads"].items():
        torch.testing.assert_close(grad, other["grads"][name], rtol=0, atol=tolerance)


@pytest.mark.parametrize("family", ["bert", "deberta-v2"])  # ragged, and padded in length groups
def test_full_batch_equals_cached_equals_two_ranks_in_float64(family):
    full = gradients(family, 1)
    assert max(grad.abs().max() for grad in full["grads"].values()) > 1e-3
    assert_same(full, gradients(family, 4))
    for ranked in run_ranks(gradients, family, 1) + run_ranks(gradients, family, 2):
        assert_same(full, ranked)


def test_replay_with_dropout_is_the_first_pass_bit_for_bit():
    seen = []
    gradients("bert", 4, dropout=0.3, seen=seen)
    assert len(seen) == 8
    assert all(torch.equal(first, replayed) for first, replayed in zip(seen[:4], seen[4:], strict=True))
    assert not torch.equal(seen[0], gradients("bert", 4, seen=(plain := [])) and plain[0])


def test_deepspeed_is_refused_in_one_sentence():
    class DeepSpeed:
        distributed_type = DistributedType.DEEPSPEED

    with pytest.raises(ValueError, match="use DDP or FSDP2"):
        batch_coupled_backward(DeepSpeed(), torch.nn.Identity(), [1, 2], lambda x: x, lambda x: x)


def rows_of_rank(batch_size: int, num_micro_batches: int) -> list:
    batches = RandomBatches(range(20), batch_size=batch_size, collate=list, num_micro_batches=num_micro_batches, seed=3)
    return [batches[step] for step in range(4)]


def test_the_global_batch_does_not_depend_on_ranks_or_micro_batches():
    alone = [list(chain(*step)) for step in rows_of_rank(8, 1)]
    cut = rows_of_rank(8, 4)
    ranks = run_ranks(rows_of_rank, 8, 2)
    for step, rows in enumerate(alone):
        assert list(chain(*cut[step])) == rows and [len(part) for part in cut[step]] == [2, 2, 2, 2]
        assert list(chain(*ranks[0][step], *ranks[1][step])) == rows


def test_batches_are_a_function_of_seed_and_step():
    batches = RandomBatches(range(20), batch_size=6, collate=list, seed=1)
    assert batches.steps_per_epoch == 3
    epoch = [row for step in range(3) for row in batches.rows(step)]
    assert len(set(epoch)) == 18
    later = batches.rows(7).tolist()
    assert later == RandomBatches(range(20), batch_size=6, collate=list, seed=1).rows(7).tolist()
    assert later != RandomBatches(range(20), batch_size=6, collate=list, seed=2).rows(7).tolist()
    with pytest.raises(ValueError, match="only 20 examples for batches of 32"):
        RandomBatches(range(20), batch_size=32, collate=list)
    with pytest.raises(ValueError, match="does not divide"):
        RandomBatches(range(20), batch_size=6, collate=list, num_micro_batches=4)
