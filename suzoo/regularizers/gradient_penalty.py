"""Penalty on the gradient with respect to the input embeddings: adversarial training to first order, in closed form.

Source: Su, "对抗训练浅谈", kexue.fm/archives/7234; bert4keras examples/task_iflytek_gradient_penalty.py.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from suzoo.regularizers._checkpointing import RefuseCheckpointing
from suzoo.regularizers._embeddings import Disturbance, check_size


def gradient_penalty(
    compute_loss: Callable[[], Tensor],
    embedding: nn.Module,
    *,
    epsilon: float = 1.0,
    num_rows: int | None = None,
) -> Tensor:
    """loss + epsilon/2 * the squared gradient with respect to the embeddings: what to call backward on.

        loss = gradient_penalty(lambda: model(**batch).loss, model.get_input_embeddings())

    The squares are summed over every occurrence of a token, as bert4keras does, and not over the rows of the matrix.

    Needs a second derivative of the attention, which only the plain implementations have. SDPA is switched to its math
    kernel for the call, and `attn_implementation="eager"` works as it is. Flash attention, flex attention and compiled
    models are refused.

    Args:
        compute_loss: runs the model and returns its scalar loss, a mean over rows; called once.
        embedding: the layer that looks up the ids, `model.get_input_embeddings()`.
        epsilon: weight of the penalty.
        num_rows: B. The squares of the gradient of a mean over B rows fall with B: num_rows multiplies the penalty, so
            that it does not depend on the batch size. None is the published code.

    Raises:
        ValueError: the attention has no second derivative, or is SDPA inside a checkpointed region; the model is
            compiled or sharded by FSDP2. Or the embedding was not called or was inside a checkpointed region, or
            epsilon is negative or not finite.
    """
    if any(isinstance(parameter, DTensor) for parameter in embedding.parameters()):
        raise ValueError("gradient_penalty needs second derivatives, which FSDP2 does not support; use DDP")
    check_size("epsilon", epsilon)
    disturbance = Disturbance(embedding)
    no_checkpointing = RefuseCheckpointing(
        "gradient_penalty cannot choose the SDPA kernel of a checkpointed region, which the backward runs again: load "
        'the model with attn_implementation="eager" or leave gradient checkpointing out',
        (F.scaled_dot_product_attention, F.multi_head_attention_forward),
    )
    with sdpa_kernel(SDPBackend.MATH), disturbance.added(), no_checkpointing:
        loss = compute_loss()
        _refuse_what_has_no_second_derivative(loss)
        gradients = torch.autograd.grad(loss, disturbance.deltas, create_graph=True)
    wide = [gradient if gradient.dtype == torch.float64 else gradient.float() for gradient in gradients]
    squares = torch.stack([gradient.square().sum() for gradient in wide]).sum()
    return loss + 0.5 * epsilon * (1 if num_rows is None else num_rows) * squares


def _refuse_what_has_no_second_derivative(loss: Tensor) -> None:
    """Look at the nodes of the graph: what ran is known there, whatever the configuration says."""
    seen, stack = set(), [loss.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        stack.extend(parent for parent, _ in node.next_functions)
        name = node.name()
        if any(word in name for word in ("Flash", "EfficientAttention", "CudnnAttention", "FlexAttention")):
            raise ValueError(
                f"gradient_penalty needs a second derivative, which {name} does not have; load the model with "
                'attn_implementation="eager" or "sdpa"'
            )
        if "CompiledFunction" in name:
            raise ValueError("gradient_penalty needs a second derivative, which a compiled model does not have")
