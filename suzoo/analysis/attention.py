"""Attention's entropy and its answer to noise, per layer and head.

Source: kexue.fm/archives/9593. A head's entropy H lies between 0 and log n for n visible keys. Training takes
entropy out, so a head should start near log n, and be able to go far down:

- scores near a normal distribution with standard deviation s give H = log n - s^2 / 2: keep s under about 1 at the
  start;
- cosine scores with temperature tau give H >= log n + `cosine_entropy_bound(tau)`, which is -.4745 for tau = 1:
  such heads can never focus, whatever they learn (for a small tau it is about log(2 / tau) - 2 / tau + 1);
- noise N(0, sigma^2) on the scores cancels in a sum over many keys: the output o moves by
  E|o~ - o|^2 = (e^{sigma^2} - 1) sum_i p_i^2 |v_i - o|^2.

Shapes: B batch, H heads, L queries, S keys, K head size, V value size.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from scipy.optimize import brentq
from scipy.special import expit, log_expit
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

PROBE = "suzoo_probe"


def gaussian_entropy(num_keys: int, std: float) -> float:
    """About what the entropy is, in nats, when scores are normal with this standard deviation: log n - std^2 / 2."""
    return math.log(num_keys) - std**2 / 2


def cosine_entropy_bound(temperature: float) -> float:
    """The least H - log n that scores in [-1/temperature, 1/temperature] can have, for any number of keys.

    At the minimum a share t of the scores is at the lower end and the rest at the upper; for temperature 1 that is
    t = (e^4 - 3 e^2) / (1 - 2 e^2 + e^4) = .7945 and the bound -.4745 (the article corrected its first figure).
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, not {temperature}")
    gap = 2 / temperature

    # log n - H is the divergence of the attention on the upper end, p, from its share of the keys, q = 1 - t, whose
    # log-odds differ by the gap: p gap + log(1 - p) - log(1 - q), and has its derivative zero at p (1 - p) gap = p - q
    def slope(log_odds: float) -> float:
        p, q = expit(log_odds + gap), expit(log_odds)
        return p * (1 - p) * gap - (p - q)

    log_odds = brentq(slope, -gap - 30, -gap / 2)
    return float(log_expit(-log_odds) - log_expit(-log_odds - gap) - expit(log_odds + gap) * gap)


def max_cosine_attention(num_keys: int, temperature: float) -> float:
    """The most that one of n keys can get from cosine scores: it is at 1/temperature, the others at minus that."""
    return 1 / (1 + (num_keys - 1) * math.exp(-2 / temperature))


def noise_response(
    scores: Tensor, values: Tensor, sigma: float, *, num_samples: int = 100, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """(measured, predicted) E|o~ - o|^2 of softmax attention under noise N(0, sigma^2) on its scores, (..., L) each.

    Args:
        scores: (..., L, S), -inf for what is not visible.
        values: (..., S, V).
        sigma: of the noise.
        num_samples: draws for the measured one.
        generator: of the noise.
    """
    weights, output = scores.softmax(-1), scores.softmax(-1) @ values
    measured = torch.zeros_like(output[..., 0])
    for _ in range(num_samples):
        noise = sigma * torch.randn(scores.shape, generator=generator, dtype=scores.dtype, device=scores.device)
        measured += ((scores + noise).softmax(-1) @ values - output).square().sum(-1) / num_samples
    return measured, _predicted_response(weights, values, output, sigma)


def _predicted_response(weights: Tensor, values: Tensor, output: Tensor, sigma: float) -> Tensor:
    squares = weights.square()
    # |v_i - o|^2 multiplied out, so that no (L, S, V) tensor exists
    distance = values.square().sum(-1)[..., None, :] - 2 * (output @ values.transpose(-1, -2))
    distance = (distance + output.square().sum(-1, keepdim=True)).clamp_min(0.0)
    return math.expm1(sigma**2) * (squares * distance).sum(-1)


@dataclass(frozen=True)
class AttentionReport:
    """Per layer (first axis) and head (second axis), averaged over queries that see two keys or more, or the last ones.

    Attributes:
        entropy: H in nats.
        relative_entropy: H / log n, 1 is uniform.
        score_std: standard deviation of the scores over the visible keys.
        noise: relative change of the head's output by noise of `sigma` on its scores, by the formula:
            sqrt(E|o~ - o|^2 / |o|^2).
        output_change: relative change of the model's last hidden states when all scores get that noise at once.
        sigma: of the noise.
        num_keys: mean number of visible keys.
    """

    entropy: Tensor
    relative_entropy: Tensor
    score_std: Tensor
    noise: Tensor
    output_change: float
    sigma: float
    num_keys: float

    @property
    def collapsed(self) -> Tensor:
        """(layers, heads) boolean: less than a tenth of log n is left."""
        return self.relative_entropy < 0.1

    @property
    def starts_focused(self) -> Tensor:
        """(layers, heads) boolean: scores with a standard deviation above 1, too much for an initialization."""
        return self.score_std > 1.0

    def __str__(self) -> str:
        lines = [
            f"{self.num_keys:.1f} keys on average, log n = {math.log(max(self.num_keys, 1)):.3f}",
            "layer  H      H/log n (least, most)   std of scores  noise",
        ]
        table = zip(self.entropy, self.relative_entropy, self.score_std, self.noise, strict=True)
        for layer, (entropy, share, std, noise) in enumerate(table):
            shares = f"{share.mean():.3f} ({share.min():.3f}, {share.max():.3f})"
            lines.append(f"{layer:5}  {entropy.mean():.3f}  {shares}    {std.mean():12.3f}   {noise.mean():.3f}")
        collapsed, focused, num_heads = int(self.collapsed.sum()), int(self.starts_focused.sum()), self.entropy.numel()
        return "\n".join(
            [
                *lines,
                f"{collapsed} of {num_heads} heads have less than a tenth of log n; noise of {self.sigma:g} on all "
                f"scores moves the last hidden states by {self.output_change:.1%}",
                f"as an initialization: {focused} of {num_heads} heads have scores with a standard deviation above 1",
            ]
        )


@torch.no_grad()
def attention_report(
    model: Any, inputs: dict[str, Tensor], *, sigma: float = 0.5, seed: int = 0, last: int | None = None
) -> AttentionReport:
    """Entropy, spread of the scores and answer to noise of every softmax attention head.

    Args:
        model: any model of transformers whose attention goes through its attention interface, in evaluation mode.
        inputs: of one batch, with its `attention_mask`.
        sigma: of the noise on the scores.
        seed: of that noise.
        last: average over the last so many queries of a row only, say 1 for those that see the whole row of a causal
            model; None is all.

    Raises:
        ValueError: the model does not use the interface, or no query sees two keys.
    """
    if last is not None and last < 1:
        raise ValueError(f"last is a number of queries from 1 on, not {last}")
    probe = _Probe(sigma, inputs.get("attention_mask"), last)
    with _probing(model, probe):
        plain = model(**inputs, output_hidden_states=True).hidden_states[-1]
        if not probe.layers:
            raise ValueError(f"{type(model).__name__} does not attend through transformers' attention interface")
        probe.generator = torch.Generator().manual_seed(seed)
        noisy = model(**inputs, output_hidden_states=True).hidden_states[-1]
    seen = torch.ones_like(plain[..., 0], dtype=torch.bool) if probe.tokens is None else probe.tokens
    change = float((noisy - plain)[seen].norm() / plain[seen].norm())
    columns = [torch.stack([layer[name] for layer in probe.layers]) for name in ("entropy", "share", "std", "noise")]
    num_keys = sum(layer["num_keys"] for layer in probe.layers) / len(probe.layers)
    return AttentionReport(*columns, output_change=change, sigma=sigma, num_keys=float(num_keys))


class _Probe:
    """An attention function that looks at every layer, and, once it has a generator, adds noise instead."""

    def __init__(self, sigma: float, attention_mask: Tensor | None, last: int | None) -> None:
        self.sigma, self.tokens = sigma, None if attention_mask is None else attention_mask.bool()
        self.last = last
        self.generator: torch.Generator | None = None
        self.layers: list[dict[str, Tensor]] = []

    def __call__(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
    ) -> tuple[Tensor, None]:
        scaling = kwargs.get("scaling") or query.shape[-1] ** -0.5
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        scores_BHLS = (query @ key.transpose(2, 3)).float() * scaling
        if kwargs.get("position_bias") is not None:
            scores_BHLS = scores_BHLS + kwargs["position_bias"]
        if attention_mask is not None:
            is_hidden = attention_mask <= torch.finfo(attention_mask.dtype).min / 2
            scores_BHLS = scores_BHLS.masked_fill(is_hidden, -torch.inf)
        weights_BHLS = scores_BHLS.softmax(-1).nan_to_num(0.0)  # a query that sees nothing
        if self.generator is None:
            self.layers.append(self._measure(scores_BHLS, weights_BHLS, value.float()))
        else:
            noise = torch.randn(scores_BHLS.shape, generator=self.generator).to(scores_BHLS)
            weights_BHLS = (scores_BHLS + self.sigma * noise).softmax(-1).nan_to_num(0.0)
        return (weights_BHLS.to(value.dtype) @ value).transpose(1, 2).contiguous(), None

    def _measure(self, scores_BHLS: Tensor, weights_BHLS: Tensor, value_BHSV: Tensor) -> dict[str, Tensor]:
        visible_BHLS = scores_BHLS > -torch.inf
        num_keys_BHL = visible_BHLS.sum(-1)
        counted_BHL = num_keys_BHL > 1
        if self.tokens is not None:
            counted_BHL = counted_BHL & self.tokens[:, None]  # padding asks, too, for nothing
        if self.last is not None:
            counted_BHL = counted_BHL & (counted_BHL.flip(-1).cumsum(-1).flip(-1) <= self.last)
        if not bool(counted_BHL.any()):
            raise ValueError("no query sees two keys: give a longer text")
        entropy_BHL = torch.special.entr(weights_BHLS).sum(-1)
        scores_BHLS = scores_BHLS.masked_fill(~visible_BHLS, 0.0)
        mean_BHL = scores_BHLS.sum(-1) / num_keys_BHL.clamp_min(1)
        spread_BHLS = (scores_BHLS - mean_BHL[..., None]).masked_fill(~visible_BHLS, 0.0)
        std_BHL = (spread_BHLS.square().sum(-1) / num_keys_BHL.clamp_min(1)).sqrt()
        output_BHLV = weights_BHLS @ value_BHSV
        response_BHL = _predicted_response(weights_BHLS, value_BHSV, output_BHLV, self.sigma)
        noise_BHL = (response_BHL / output_BHLV.square().sum(-1).clamp_min(1e-30)).sqrt()

        def mean(per_query_BHL: Tensor) -> Tensor:
            return (per_query_BHL * counted_BHL).sum((0, 2)) / counted_BHL.sum((0, 2))

        return {
            "entropy": mean(entropy_BHL),
            "share": mean(entropy_BHL / num_keys_BHL.clamp_min(2).log()),
            "std": mean(std_BHL),
            "noise": mean(noise_BHL),
            "num_keys": (num_keys_BHL * counted_BHL).sum() / counted_BHL.sum(),
        }


@contextmanager
def _probing(model: Any, probe: _Probe) -> Generator[None]:
    """Inside, the model attends through the probe."""
    before = model.config._attn_implementation
    AttentionInterface.register(PROBE, probe)
    AttentionMaskInterface.register(PROBE, eager_mask)
    model.set_attn_implementation(PROBE)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
