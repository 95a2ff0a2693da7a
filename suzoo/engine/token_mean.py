"""Gradients of a mean over all tokens of a step, whatever the micro-batches and ranks they are spread over."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn

from suzoo.distributed import all_reduce_sum, world_size


def token_mean_backward(
    accelerator: Accelerator,
    model: nn.Module,
    micro_batches: Sequence[Any],
    count: Callable[[Any], int],
    loss: Callable[[Any, Tensor], Tensor],
) -> Tensor:
    """Backward of the mean loss over the labelled tokens of a step; returns this rank's share, detached.

    Every token weighs the same, also where one micro-batch or rank has more of them than another: the mean of
    micro-batch means, which plain accumulation computes, favours the tokens of short ones. The mean over ranks of what
    is returned is the loss of the step.

    Args:
        accelerator: the run's Accelerator.
        model: the (prepared) module that `loss` calls; its gradient synchronisation waits for the last micro-batch.
        micro_batches: of this rank; every rank has as many.
        count: micro-batch -> number of labelled tokens.
        loss: (micro-batch, number of labelled tokens of the step) -> the sum of the losses divided by that number.

    Raises:
        ValueError: under DeepSpeed, whose backward also steps, with more than one micro-batch.
    """
    if len(micro_batches) > 1 and accelerator.distributed_type == DistributedType.DEEPSPEED:
        raise ValueError(
            "a step of several micro-batches needs several backwards, and DeepSpeed steps in each: use DDP or FSDP2, "
            "or one larger micro-batch"
        )
    num_tokens = torch.full((), sum(count(batch) for batch in micro_batches), device=accelerator.device)
    num_tokens = all_reduce_sum(num_tokens).clamp_min(1)
    shares = []
    for number, batch in enumerate(micro_batches, start=1):
        with nullcontext() if number == len(micro_batches) else accelerator.no_sync(model):
            value = loss(batch, num_tokens) * world_size()  # the ranks' gradients are averaged
            accelerator.backward(value)
        shares.append(value.detach())
    return torch.stack(shares).sum()
