"""The models on two ranks, sharded as Accelerate shards them: gradients are those of the whole batch."""

from __future__ import annotations

import torch
from torch.distributed.fsdp import fully_shard

from suzoo.distributed import rank
from tests.models.tiny import FAMILIES, source_target, tiny, tokens
from tests.ranks import run_ranks


def gradients(family: str, ids: torch.Tensor, shard: bool) -> dict[str, torch.Tensor]:
    model = tiny(family, initializer_range=0.1)
    if shard:
        for module in list(model.modules()):
            if type(module).__name__ in model._no_split_modules:
                fully_shard(module)
        fully_shard(model)
    types = source_target(len(ids), 3, 3) if family == "unilm" else torch.zeros_like(ids)
    model(ids, token_type_ids=types, labels=ids).loss.backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    return {name: grad.full_tensor() if shard else grad for name, grad in found.items()}


def on_a_rank() -> dict[str, dict[str, torch.Tensor]]:
    rows = slice(2 * rank(), 2 * rank() + 2)
    return {family: gradients(family, tokens(4, 6)[rows], shard=True) for family in FAMILIES}


def test_sharded_gradients_are_those_of_the_whole_batch():
    for result in run_ranks(on_a_rank):
        for family in FAMILIES:
            expected = gradients(family, tokens(4, 6), shard=False)
            assert result[family].keys() == expected.keys()
            for name, grad in expected.items():
                torch.testing.assert_close(result[family][name], grad, rtol=1e-6, atol=1e-6, msg=f"{family} {name}")
