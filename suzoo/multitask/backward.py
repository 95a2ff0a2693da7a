"""One backward for several losses: a gradient per task, weights from their inner products, one gradient to step with.

Source: Su, "多任务学习漫谈（二）：行梯度之事", kexue.fm/archives/8896. Shapes: T tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from suzoo.distributed import all_reduce_mean, all_reduce_sum, is_distributed, rank


def multitask_backward(
    losses: Sequence[Tensor],
    shared_parameters: Iterable[Tensor],
    weighting: Callable[[Tensor], Tensor],
) -> Tensor:
    """Adds sum_i weight_i g_i to `.grad` of the shared parameters, and to all other parameters the gradient of the sum.

        multitask_backward([loss_sts, loss_topic], encoder.parameters(), min_norm)

    The others are the heads of the tasks: unweighted, an auxiliary task of weight 0 still trains its own.
    Costs T backwards over one graph (so all tasks see the same dropout) and the memory of T + 1 gradients of the shared
    parameters. Several ranks must all hold all tasks: under DDP the gradients are averaged here and not by DDP, before
    the weights are taken; under FSDP2 by FSDP2.

    Args:
        losses: T scalars. Those that a gradient scaler has multiplied pass with every weighting but
            `inverse_gradient_norm`.
        shared_parameters: what the weights are about, usually the encoder.
        weighting: inner products (T, T), float64 on the CPU, of the gradients averaged over ranks -> weights (T,):
            `min_norm`, `primary_auxiliary`, `inverse_gradient_norm`, `pcgrad`. It is not asked where a gradient is not
            finite: then all weights are 1, so that the gradient to step with is not finite either, and shows it.

    Returns:
        The weights (T,), the same on all ranks.

    Raises:
        ValueError: fewer than 2 losses, one without a graph, no shared parameter, or weights of another shape; `.grad`
            is then as it was, but for the heads' under FSDP2.
    """
    # each once: tied weights come up twice where the parameters of two modules are put together
    shared = list(dict.fromkeys(parameter for parameter in shared_parameters if parameter.requires_grad))
    if len(losses) < 2 or not shared:
        raise ValueError(
            f"multitask_backward takes at least 2 losses and 1 shared parameter, not {len(losses)} and {len(shared)}"
        )
    if any(loss.dim() or not loss.requires_grad for loss in losses):
        raise ValueError("multitask_backward: every loss must be a scalar that depends on parameters")
    collect = _by_backward if any(isinstance(parameter, DTensor) for parameter in shared) else _by_grad
    task_grads, of_others = collect(losses, shared)

    rows = range(len(losses))
    products = {(i, j): _inner(task_grads[i], task_grads[j]) for i in rows for j in rows if i <= j}
    entries = [products[min(i, j), max(i, j)] for i in rows for j in rows]
    # one read of the device, where each would wait
    gramian_TT = torch.stack([entry.to(entries[0].device) for entry in entries]).view(len(rows), -1).cpu()
    if bool(gramian_TT.isfinite().all()):
        weights_T = weighting(gramian_TT).to(gramian_TT)
        if weights_T.shape != (len(losses),):
            raise ValueError(
                f"multitask_backward: the weighting returned {(*weights_T.shape,)} for {len(losses)} losses"
            )
        if is_distributed():  # those of the first rank, should the weighting have drawn random numbers
            of_first = weights_T if rank() == 0 else torch.zeros_like(weights_T)
            weights_T = all_reduce_sum(of_first.to(losses[0].device, non_blocking=True)).to(gramian_TT)
    else:
        weights_T = torch.ones(len(losses), dtype=torch.float64)

    for number, parameter in enumerate(shared):
        for weight, grads in zip(weights_T.tolist(), task_grads, strict=True):
            _accumulate(parameter, grads[number], weight)
    for parameter, grad in of_others.items():
        _accumulate(parameter, grad, 1.0)
    return weights_T


def automatic_weight_decay(parameters: Iterable[Tensor]) -> float:
    """Adds c θ to the gradients, c = relu(-<g, θ>)/|θ|²: decay exactly as far as the loss would make the weights grow.

    Weight decay as the auxiliary task of kexue.fm/archives/8907. Call it between backward and step, on gradients that
    are averaged over ranks already.

    Returns:
        c, to log; one number for all parameters together.
    """
    # each once, as above
    pairs = [(p.grad, p.detach()) for p in dict.fromkeys(parameters) if p.grad is not None]
    grads, values = [grad for grad, _ in pairs], [value for _, value in pairs]
    square, product = torch.stack([_inner(values, values), _inner(grads, values)]).tolist()
    coefficient = max(-product, 0.0) / square if square > 0 else 0.0
    for grad, value in pairs:
        grad.add_(value, alpha=coefficient)
    return coefficient


def _by_grad(
    losses: Sequence[Tensor], shared: list[Tensor]
) -> tuple[list[list[Tensor | None]], dict[Tensor, Tensor | None]]:
    """Gradients of the shared parameters by task, and of all others of the sum of the losses; averaged over ranks.

    With `autograd.grad`, which DDP does not see: its reduction is for one backward per forward.
    """
    others = [leaf for leaf in _leaves(losses) if all(leaf is not parameter for parameter in shared)]
    found: list[Tensor | None] = []
    for number, loss in enumerate(losses, 1):
        found += torch.autograd.grad(loss, [*shared, *others], retain_graph=number < len(losses), allow_unused=True)
    found = _averaged(found)
    task_grads: list[list[Tensor | None]] = []
    of_others: dict[Tensor, Tensor | None] = dict.fromkeys(others)
    for start in range(0, len(found), len(shared) + len(others)):
        of_shared, end = start + len(shared), start + len(shared) + len(others)
        task_grads.append(found[start:of_shared])
        for parameter, mean in zip(others, found[of_shared:end], strict=True):
            if mean is not None:
                before = of_others[parameter]
                of_others[parameter] = mean if before is None else before + mean
    return task_grads, of_others


def _averaged(grads: list[Tensor | None]) -> list[Tensor | None]:
    """Their means over the ranks, in one reduction per number type: each by itself would wait for the slowest rank."""
    if not is_distributed():
        return grads
    kinds: dict[tuple, list[int]] = {}
    for place, grad in enumerate(grads):
        if grad is not None:
            kinds.setdefault((grad.dtype, grad.device), []).append(place)
    for places in kinds.values():
        present = [grad for place in places if (grad := grads[place]) is not None]
        mean = all_reduce_mean(torch.cat([grad.flatten() for grad in present]))
        parts = mean.split([grad.numel() for grad in present])
        for place, grad, part in zip(places, present, parts, strict=True):
            grads[place] = part.view_as(grad)
    return grads


def _by_backward(
    losses: Sequence[Tensor], shared: list[Tensor]
) -> tuple[list[list[Tensor | None]], dict[Tensor, Tensor | None]]:
    """The same for parameters sharded by FSDP2, whose reduction only runs in a backward that accumulates.

    So the gradients of all others are in `.grad` already.
    """
    before = [parameter.grad for parameter in shared]
    task_grads = []
    for number, loss in enumerate(losses, 1):
        for parameter in shared:
            parameter.grad = None
        loss.backward(retain_graph=number < len(losses))
        task_grads.append([parameter.grad for parameter in shared])
    for parameter, grad in zip(shared, before, strict=True):
        parameter.grad = grad
    return task_grads, {}


def _leaves(losses: Sequence[Tensor]) -> list[Tensor]:
    """The parameters whose `.grad` a backward of the losses would fill, in an order that is the same on all ranks."""
    leaves, seen, stack = [], set(), [loss.grad_fn for loss in losses]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if isinstance(leaf, nn.Parameter):  # other leaves may differ in shape by rank
            leaves.append(leaf)
        stack.extend(parent for parent, _ in node.next_functions)
    return leaves


def _inner(grads: Sequence[Tensor | None], others: Sequence[Tensor | None]) -> Tensor:
    """Inner product over all parameters, where they are; a missing gradient is 0."""
    terms = []
    for grad, other in zip(grads, others, strict=True):
        if grad is not None and other is not None:
            product = (_wide(grad) * _wide(other)).sum()
            product = product.full_tensor() if isinstance(product, DTensor) else product
            terms.append(product.to(terms[0].device) if terms else product)
    return torch.stack(terms).sum() if terms else torch.zeros((), dtype=torch.float64)


def _wide(grad: Tensor) -> Tensor:
    """float64: the squares of gradients of 1e20 and of 1e-23 leave float32."""
    return (grad.cpu() if grad.device.type == "mps" else grad).double()  # MPS has no float64


def _accumulate(parameter: Tensor, grad: Tensor | None, weight: float) -> None:
    if grad is None:
        return
    # a weight of 1e40, that of a gradient of 1e-40, is infinite in float32
    weighted = (_wide(grad) * weight).to(grad)
    parameter.grad = weighted if parameter.grad is None else parameter.grad + weighted
