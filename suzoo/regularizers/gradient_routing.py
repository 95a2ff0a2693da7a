"""Whose parameters a loss reaches: reversed, scaled and frozen gradients, and adversarial training in one loss.

Sources: Ganin and Lempitsky, arXiv 1409.7495; Su, "巧断梯度：单个loss实现GAN模型", kexue.fm/archives/6387.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from suzoo.regularizers._checkpointing import RefuseCheckpointing


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, factor: float) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.factor = inputs[1]

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        return ctx.factor * grad_outputs[0], None


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """x forwards, `factor` times the gradient backwards."""
    return _ScaleGradient.apply(x, factor)


def reverse_gradient(x: Tensor, factor: float = 1.0) -> Tensor:
    """x forwards, minus `factor` times the gradient backwards: what follows learns a task that x unlearns.

    Domain-adversarial training in one loss:
    `task_loss + F.cross_entropy(domain_head(reverse_gradient(hidden, 0.3)), domains)`.
    It is right where both players have the same loss. For different ones, such as hinge losses, use `frozen_call`.
    Under Adam the factor is no ratio of learning rates: those need parameter groups.
    """
    return scale_gradient(x, -factor)


def frozen_call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """`module(*args, **kwargs)` through which gradients reach the arguments but not the module's parameters.

    Buffers are cloned, so a batch norm keeps its statistics. Nothing of the module is changed, so a second, ordinary
    call in the same loss trains it: a judge and the generator it judges, in one backward.

    Raises:
        ValueError: the module checkpoints activations. A region around the whole call is fine.
    """
    state: dict[str, Tensor] = {name: parameter.detach() for name, parameter in module.named_parameters()}
    state |= {name: buffer.clone() for name, buffer in module.named_buffers()}
    no_checkpointing = RefuseCheckpointing(
        "frozen_call cannot freeze a checkpointed region of the module, which the backward runs again unfrozen: leave "
        "gradient checkpointing out, or checkpoint the whole call"
    )
    with no_checkpointing:
        return functional_call(module, state, args, kwargs)


def one_loss_gan(discriminator: nn.Module, real: Tensor, fake: Tensor, *, weight: float = 1.0) -> Tensor:
    """The hinge GAN as one loss with one backward; the discriminator learns to be small on the real.

    mean relu(1 + D(real)) + mean relu(1 - D(sg fake)) trains D only, and D(fake), worth 0 in value, the generator only.
    Both are updated from the same point. The article forms the last term as D(fake) - D(sg fake), which dropout or
    batch norm in D breaks; here D is frozen in it instead. No speed or memory is saved over two optimizers.

    Args:
        discriminator: maps real and fake to scores of any shape.
        real: a batch of data. fake: the generator's output, with its graph.
        weight: of the generator's gradient. Under Adam it is no ratio of learning rates.
    """
    critic = F.relu(1 + discriminator(real)).mean() + F.relu(1 - discriminator(fake.detach())).mean()
    generator = frozen_call(discriminator, fake).mean()
    return critic + weight * (generator - generator.detach())
