"""Exact gradients of a loss that couples the whole batch, without holding the whole batch's graph.

Source: Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup" (GradCache, 2101.06983).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn

from suzoo.models._devices import random_states, set_random_states


def batch_coupled_backward(
    accelerator: Accelerator,
    model: nn.Module,
    micro_batches: Sequence[Any],
    embed: Callable[[Any], Tensor],
    loss: Callable[[Tensor], Tensor],
) -> Tensor:
    """Backward of `loss(embed(all examples))`, the examples given in micro-batches; returns the loss, detached.

    With one micro-batch this is a plain backward. With more, every micro-batch is embedded without a graph, and the
    loss is taken over all of them. Then each is embedded again, with its own random numbers, to carry its part of the
    gradient. The gradient is that of one large batch, in the memory of one micro-batch.

    Args:
        accelerator: the run's Accelerator.
        model: the (prepared) module that `embed` calls; its gradient synchronisation waits for the last micro-batch.
        micro_batches: what `embed` takes.
        embed: micro-batch -> (N, ...) tensor: embeddings, or scores where that is all the loss needs.
        loss: (sum of N, ...) -> scalar. For several ranks it uses `suzoo.distributed.gather` on its input.

    Raises:
        ValueError: under DeepSpeed, whose backward also steps, with more than one micro-batch.
    """
    if len(micro_batches) == 1:
        value = loss(embed(micro_batches[0]))
        accelerator.backward(value)
        return value.detach()
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        raise ValueError(
            "cached gradients need several backwards per step, and DeepSpeed steps in each: use DDP or FSDP2, "
            "or a batch that fits at once"
        )
    states, outputs = [], []
    for batch in micro_batches:
        states.append(random_states(accelerator.device))
        with torch.no_grad():
            outputs.append(embed(batch))
    leaves = [output.detach().requires_grad_() for output in outputs]
    value = loss(torch.cat(leaves))
    gradients = torch.autograd.grad(value, leaves)
    for number, (batch, state, gradient) in enumerate(zip(micro_batches, states, gradients, strict=True), 1):
        set_random_states(state, accelerator.device)
        with nullcontext() if number == len(micro_batches) else accelerator.no_sync(model):
            accelerator.backward((embed(batch) * gradient).sum())
    return value.detach()
