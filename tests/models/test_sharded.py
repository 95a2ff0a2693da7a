"""The models on two ranks, sharded as Accelerate shards them: gradients are those of the whole batch."""

from __future__ import annotations

import torch
from torch.distributed.fsdp import fully_shard

from suzoo.distributed import rank
from suzoo.models import CoSENTCrossEncoder, CoSENTModel, GRUEncoderConfig
from tests.models.tiny import FAMILIES, source_target, tiny, tokens
from tests.ranks import run_ranks
from tests.tiny import tiny_config, tiny_tokenizer


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


def make_pooled(family: str) -> CoSENTModel | CoSENTCrossEncoder:
    torch.manual_seed(1)
    if family == "cross-encoder":
        return CoSENTCrossEncoder(tiny_config("bert"))
    if family == "gru":
        sizes = {"embedding_size": 16, "hidden_size": 12, "num_hidden_layers": 2, "bidirectional": True}
        return CoSENTModel(GRUEncoderConfig(vocab_size=len(tiny_tokenizer()), **sizes), pooling="mean")
    return CoSENTModel(tiny_config(family))


# computed in groups by length, of which these rows give the ranks 4 and 1
POOLED = ("mpnet", "gru", "cross-encoder")
LENGTHS = [[3, 9, 20, 40], [7, 7, 7, 7]]


def pooled_gradients(family: str, ranks: list[int], shard: bool) -> dict[str, torch.Tensor]:
    model = make_pooled(family).double().eval()
    if shard:
        for module in list(model.modules()):
            if type(module).__name__ in (model._no_split_modules or ()):
                fully_shard(module)
        fully_shard(model)
    lengths = [length for each in ranks for length in LENGTHS[each]]
    texts = [torch.arange(length) % 20 + 5 for each in ranks for length in LENGTHS[each]]
    out = model(torch.cat(texts), lengths=lengths)
    (out.logits if family == "cross-encoder" else out.sentence_embedding).pow(2).mean().backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {name: grad.full_tensor() if shard else grad for name, grad in found.items()}


def on_a_rank() -> dict[str, dict[str, torch.Tensor]]:
    rows = slice(2 * rank(), 2 * rank() + 2)
    found = {family: gradients(family, tokens(4, 6)[rows], shard=True) for family in FAMILIES}
    return found | {family: pooled_gradients(family, [rank()], shard=True) for family in POOLED}


def test_sharded_gradients_are_those_of_the_whole_batch():
    whole = {family: gradients(family, tokens(4, 6), shard=False) for family in FAMILIES}
    whole |= {family: pooled_gradients(family, [0, 1], shard=False) for family in POOLED}
    for result in run_ranks(on_a_rank):
        for family, expected in whole.items():
            assert result[family].keys() == expected.keys()
            for name, grad in expected.items():
                torch.testing.assert_close(result[family][name], grad, rtol=1e-6, atol=1e-6, msg=f"{family} {name}")
