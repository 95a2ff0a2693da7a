"""The optimizers as in their papers: one float64 tensor, one formula per line, the gradients of all steps given.

Every function returns the parameter after each gradient. The accumulating ones take micro-gradients.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def lion(theta: Tensor, grads: list[Tensor], *, lr, betas=(0.9, 0.99), weight_decay=0.0) -> list[Tensor]:
    beta1, beta2 = betas
    m, path = torch.zeros_like(theta), []
    for g in grads:
        u = torch.sign(beta1 * m + (1 - beta1) * g)
        theta = theta - lr * (u + weight_decay * theta)
        m = beta2 * m + (1 - beta2) * g
        path.append(theta)
    return path


def adax(
    theta: Tensor, grads: list[Tensor], *, lr, betas=(0.9, 1e-4), eps, weight_decay=0.0, decoupled, eps_placement
) -> list[Tensor]:
    """With the raw, growing second moment of the paper."""
    beta1, beta2 = betas
    m, v, path = torch.zeros_like(theta), torch.zeros_like(theta), []
    for t, g in enumerate(grads, 1):
        if not decoupled:
            g = g + weight_decay * theta
        m = beta1 * m + (1 - beta1) * g
        v = (1 + beta2) * v + beta2 * g**2
        growth = (1 + beta2) ** t - 1
        if eps_placement == "raw":
            step = math.sqrt(growth) * m / (v.sqrt() + eps)
        elif eps_placement == "root":
            step = m / ((v / growth).sqrt() + eps)
        else:
            step = m / (v / growth + eps).sqrt()
        theta = theta - lr * step - (lr * weight_decay * theta if decoupled else 0)
        path.append(theta)
    return path


def adafactor(
    theta: Tensor, grads: list[Tensor], *, lr, factored, beta1=0.0, eps=(1e-30, 1e-3), clip=1.0, scale=True,
    weight_decay=0.0, momentum_on="update", beta2_cap=1.0,
) -> list[Tensor]:  # fmt: skip
    """`lr(t)` is α_t; a factored matrix uses the product form of the paper."""
    R = C = V = 0.0
    m, path = torch.zeros_like(theta), []
    for t, g in enumerate(grads, 1):
        beta2 = min(1 - t**-0.8, beta2_cap)
        g2 = g**2 + eps[0]
        if factored:
            R = beta2 * R + (1 - beta2) * g2.sum(1, keepdim=True)
            C = beta2 * C + (1 - beta2) * g2.sum(0, keepdim=True)
            V = R * C / C.sum()
        else:
            V = beta2 * V + (1 - beta2) * g2
        u = g / V.sqrt()
        if clip is not None:
            u = u / max(1.0, float((u**2).mean().sqrt()) / clip)
        alpha = lr(t) * (max(eps[1], float((theta**2).mean().sqrt())) if scale else 1.0)
        if beta1 and momentum_on == "update":
            u = m = beta1 * m + (1 - beta1) * u
        step = alpha * u
        if beta1 and momentum_on == "step":
            step = m = beta1 * m + (1 - beta1) * step
        theta = theta - step - lr(t) * weight_decay * theta
        path.append(theta)
    return path


def tiger(
    theta: Tensor, grads: list[Tensor], *, kind, lr=1e-3, beta=0.965, weight_decay=0.01, k=1, floor=0.0, shrink=0.99
) -> list[Tensor]:
    """The window's bad gradients are left out; at its end θ shrinks once for each of them, then moves by the others."""
    m, path = torch.zeros_like(theta), []
    good = bad = 0
    for t, g in enumerate(grads, 1):
        if g.isfinite().all():
            m = (beta if good == 0 else 1.0) * m + (1 - beta) / k * g
            good += 1
        else:
            bad += 1
        if t % k == 0:
            center = 1.0 if kind == "norm" else 0.0
            theta = center + shrink**bad * (theta - center)
            if good:
                if kind in ("bias", "norm"):
                    eta, decay = lr / 2, 0.0
                elif kind == "embedding":
                    eta, decay = lr * (theta**2).mean(-1, keepdim=True).sqrt().clamp_min(floor), weight_decay
                else:
                    eta, decay = lr * max(floor, float((theta**2).mean().sqrt())), weight_decay
                theta = theta - eta * (m.sign() + decay * theta)
            good = bad = 0
        path.append(theta)
    return path


def accumulate(grads: list[Tensor], k: int) -> list[Tensor]:
    """Mean gradient of every full window of k."""
    return [torch.stack(grads[i : i + k]).mean(0) for i in range(0, len(grads) - k + 1, k)]


def sgd(
    theta: Tensor, grads: list[Tensor], *, lr, momentum=0.9, dampening=0.0, weight_decay=0.0, decoupled=False
) -> list[Tensor]:
    m, path = torch.zeros_like(theta), []
    for g in grads:
        g = g if decoupled else g + weight_decay * theta
        m = momentum * m + (1 - dampening) * g
        theta = theta - lr * m - (lr * weight_decay * theta if decoupled else 0)
        path.append(theta)
    return path


def accumulated_adamw(
    theta: Tensor, grads: list[Tensor], *, k, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, second_moment,
    eps_inside=False, scale_lr=False,
) -> list[Tensor]:  # fmt: skip
    """Second moment from the k squares of the window, at its end."""
    m = v = torch.zeros_like(theta)
    path = []
    for window in range(1, len(grads) // k + 1):
        micro = torch.stack(grads[(window - 1) * k : window * k])
        squares = (micro**2).mean(0) if second_moment == "mean_sq" else ((micro / k) ** 2).sum(0)
        m = betas[0] * m + (1 - betas[0]) * micro.mean(0)
        v = betas[1] * v + (1 - betas[1]) * squares
        v_hat = v / (1 - betas[1] ** window)
        root = (v_hat + eps).sqrt() if eps_inside else v_hat.sqrt() + eps
        step = m / (1 - betas[0] ** window) / root * (math.sqrt(k) if scale_lr else 1.0)
        theta = theta - lr * (step + weight_decay * theta)
        path.append(theta)
    return path
