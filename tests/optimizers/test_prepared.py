"""Optimizers with hooks or parameters of their own after `accelerator.prepare`: with FSDP2 it exchanges parameters."""

from __future__ import annotations

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import BertForSequenceClassification

from suzoo.distributed import is_distributed, rank, world_size
from suzoo.models._stock_encoder import sharded_units
from suzoo.optimizers import (
    AccumulatedAdamW,
    AccumulatedSGD,
    LoRAOptimizer,
    Tiger,
    param_groups,
)
from tests.ranks import run_ranks
from tests.tiny import tiny_config


def adam(groups):
    return torch.optim.AdamW(groups, lr=0.01)


def hidden_sgd(groups):
    return AccumulatedSGD(groups, 0.1, accumulation_steps=2)


CASES = {
    "AccumulatedSGD": lambda groups, free: AccumulatedSGD(groups, 0.05, accumulation_steps=2, free_gradients=free),
    "AccumulatedAdamW": lambda groups, free: AccumulatedAdamW(groups, 0.01, accumulation_steps=2, free_gradients=free),
    "Tiger": lambda groups, free: Tiger(groups, 0.01, accumulation_steps=2, free_gradients=free),
    "LoRAOptimizer": lambda groups, free: LoRAOptimizer(groups, adam, r=2, free_gradients=free),
    "LoRAOptimizer, additive": lambda groups, free: LoRAOptimizer(
        groups, adam, r=2, variant="additive", free_gradients=free
    ),
    "LoRAOptimizer, projection": lambda groups, free: LoRAOptimizer(
        groups, adam, r=2, variant="projection", refresh=2, free_gradients=free
    ),
    "LoRAOptimizer, hidden": lambda groups, free: LoRAOptimizer(groups, hidden_sgd, r=2, free_gradients=free),
}


def train(name: str, free: bool, dtype: torch.dtype = torch.float64) -> tuple[dict[str, torch.Tensor], list[int]]:
    """The weights after six micro-steps, and after each backward the number of gradients that are there."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()  # a run that was stopped inside an accumulation leaves it out of sync
    accelerator = Accelerator(cpu=True)
    if is_distributed():
        # Accelerate knows FSDP on accelerators only; training/recipes/frame.py does the same
        accelerator.state.distributed_type = DistributedType.FSDP
        accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(
            fsdp_version=2, auto_wrap_policy="transformer_based_wrap", cpu_ram_efficient_loading=False
        )
    torch.manual_seed(0)
    model = BertForSequenceClassification(
        tiny_config(num_labels=2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    ).to(dtype)
    model._no_split_modules = sharded_units(model, model._no_split_modules)
    optimizer = CASES[name](param_groups(model, weight_decay=0.1), free)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (step + 1))
    before = {key: value.detach().clone() for key, value in model.named_parameters()}
    module, optimizer = accelerator.prepare(model, optimizer)
    assert all(isinstance(p, DTensor) == is_distributed() for p in module.parameters())
    num_gradients = []
    for step in range(6):
        generator = torch.Generator().manual_seed(step)
        ids, labels = torch.randint(5, 40, (4, 6), generator=generator), torch.tensor([0, 1, 1, 0])
        mine = slice(rank() * 4 // world_size(), (rank() + 1) * 4 // world_size())
        logits = module(input_ids=ids[mine]).logits
        accelerator.backward(nn.functional.cross_entropy(logits, labels[mine]))
        num_gradients.append(sum(p.grad is not None for p in module.parameters()))
        optimizer.step()
        optimizer.zero_grad()
        if step % 2:
            schedule.step()
    weights = {
        key: (value.full_tensor() if isinstance(value, DTensor) else value).detach()
        for key, value in module.named_parameters()
    }
    # the softmax ignores the bias of the keys: its gradient is rounding, whose sign differs between ranks
    weights = {key: value for key, value in weights.items() if not key.endswith("key.bias")}
    assert dtype != torch.float64 or not [key for key in weights if torch.equal(weights[key], before[key])]
    return weights, num_gradients


def all_cases() -> dict:
    results = {(name, free): train(name, free) for name in CASES for free in (False, True)}
    results["bfloat16"] = train("LoRAOptimizer, hidden", False, torch.bfloat16)
    return results


@pytest.fixture(scope="module")
def on_two_ranks() -> list[dict]:
    return run_ranks(all_cases)


@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_prepared_with_fsdp2_equals_one_process(on_two_ranks, name, free):
    expected, _ = train(name, False)
    for results in on_two_ranks:
        weights, num_gradients = results[name, free]
        for key, value in expected.items():
            torch.testing.assert_close(weights[key], value, rtol=0, atol=1e-10, msg=f"{name} {key}")
        adapted = 3 * 6 + 1  # matrices of the layers and the pooler; LoRAOptimizer leaves the rest its gradients
        kept = (len(expected) + 3 - adapted if name.startswith("LoRA") else 0) if free else len(expected) + 3
        # the hooks of the accumulating ones move in the first step
        assert set(num_gradients if name.startswith("LoRA") else num_gradients[1:]) == {kept}


def test_low_precision_matrices_are_measured_from_their_first_value_in_shards_too(on_two_ranks):
    expected, _ = train("LoRAOptimizer, hidden", False, torch.bfloat16)
    for results in on_two_ranks:
        weights, _ = results["bfloat16"]
        for key, value in expected.items():
            if value.dim() < 2 or "embeddings" in key or "classifier" in key:
                continue  # not adapted
            assert weights[key].dtype == torch.bfloat16
            torch.testing.assert_close(weights[key], value, rtol=2e-2, atol=4e-3)
