"""Virtual adversarial training: the prediction should not change under the worst small disturbance. Needs no labels.

Sources: Miyato et al., arXiv 1704.03976; Su, "泛化性乱弹：从随机噪声、梯度惩罚到虚拟对抗训练", kexue.fm/archives/7466.
Shapes: B rows, (B, ..., C) logits.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from suzoo.models._devices import replayed
from suzoo.regularizers._embeddings import Disturbance, Norm, check_norm, check_size, rescaled


def vat_loss(
    compute_logits: Callable[[], Tensor],
    embedding: nn.Module,
    *,
    epsilon: float = 1.0,
    xi: float = 0.1,
    num_steps: int = 1,
    norm: Norm = "sample",
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """KL(prediction || prediction at the disturbed embeddings), the clean prediction detached. Add it to a loss.

        loss = cross_entropy + vat_loss(lambda: model(**batch).logits, model.get_input_embeddings())

    The direction is found by `num_steps` power iterations on a random start. All passes draw the same dropout masks;
    otherwise the divergence would be that of dropout. For semi-supervised learning (kexue.fm/archives/7466) take it on
    unlabelled batches, alternating with supervised steps, at half the learning rate.

    Args:
        compute_logits: runs the model and returns its logits (B, ..., C); called num_steps + 2 times.
        embedding: the layer that looks up the ids, `model.get_input_embeddings()`.
        epsilon: length of the disturbance, in units of the embeddings.
        xi: length of the probe. Not the 1e-6 of the paper: in float32 its gradient is rounding noise.
        num_steps: power iterations.
        norm: "token", "sample", "batch" or "matrix", as in `fgm`; bert4keras has "matrix" with xi 10.
        mask: True where a position counts, of the shape of the logits without classes: (B, L) for token-level logits.
        generator: for the random start.

    Returns:
        Scalar mean over the positions that count, at least 0, float32 at least. A class at -inf counts nowhere.

    Raises:
        ValueError: the embedding was not called or was inside a checkpointed region, num_steps < 1, epsilon < 0 or
            xi <= 0 or one not finite, an unknown norm, or a mask of another shape.
    """
    if num_steps < 1:
        raise ValueError(f"vat_loss: num_steps must be at least 1, not {num_steps}")
    check_size("epsilon", epsilon)
    check_size("xi", xi)
    if xi == 0:
        raise ValueError("xi must be above 0: without a probe there is no direction to find")
    device = next(embedding.parameters()).device
    if generator is None:  # drawn before the passes, which must all start from one random state
        generator = torch.Generator(device).manual_seed(int(torch.randint(2**62, ())))
    check_norm(norm)
    disturbance = Disturbance(embedding, table=norm == "matrix")
    with replayed(device), disturbance.added(), torch.no_grad():
        log_p = _log_softmax(compute_logits())
    direction = [
        real * _noise(delta, generator) for delta, real in zip(disturbance.deltas, disturbance.real, strict=True)
    ]
    for _ in range(num_steps):
        disturbance.set(rescaled(direction, xi, norm))
        with replayed(device), disturbance.added():
            divergence = _kl(log_p, _log_softmax(compute_logits()), mask)
        direction = disturbance.gradients(divergence)
    disturbance.set(rescaled(direction, epsilon, norm), final=True)
    with disturbance.added():
        return _kl(log_p, _log_softmax(compute_logits()), mask)


def _noise(delta: Tensor, generator: torch.Generator) -> Tensor:
    """Normal numbers like `delta`, drawn where the generator is: on a CPU the same ones in every precision."""
    dtype = torch.float64 if generator.device.type == "cpu" else torch.float32
    return torch.randn(delta.shape, generator=generator, dtype=dtype, device=generator.device).to(delta)


def _log_softmax(logits: Tensor) -> Tensor:
    return (logits if logits.dtype == torch.float64 else logits.float()).log_softmax(-1)


def _kl(log_p: Tensor, log_q: Tensor, mask: Tensor | None) -> Tensor:
    impossible = log_p == -torch.inf
    terms = log_p.exp() * (log_p.masked_fill(impossible, 0.0) - log_q.masked_fill(impossible, 0.0))
    divergence = terms.sum(-1)
    if mask is not None and mask.shape != divergence.shape:
        raise ValueError(
            f"vat_loss: mask must be {(*divergence.shape,)}, the logits without classes, not {(*mask.shape,)}"
        )
    if mask is None:
        return divergence.sum() / max(divergence.numel(), 1)
    return torch.where(mask.bool(), divergence, 0.0).sum() / mask.bool().sum().clamp_min(1)
