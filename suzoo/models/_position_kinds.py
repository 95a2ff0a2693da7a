"""Every kind of position that the house Transformer has, and the arithmetic of those that act on the scores.

`POSITIONS` is the one table: what a kind adds, and what it supports. A new kind is a row here and its lines in
`_transformer.Encoder`.

Sources: kexue.fm/archives/9431 (ALiBi, KERPLE, Sandwich, XPOS, windows), 9708 (ReRoPE, Leaky ReRoPE), 8823 (log n),
9444 (random positions).

Shapes: B batch, L queries, S keys, H heads, K head size.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from ._positions import rotary_angles, rotate
from ._versions import SCORES_TAKE_BIAS


class PositionKind(NamedTuple):
    """A row of `POSITIONS`.

    Attributes:
        adds: what it adds to the model, in words.
        flash, sdpa, flex: attention implementations that compute it; eager always does.
        even_heads: needs an even head size.
        limited: has a weight for every position, so nothing goes on behind `max_position_embeddings`.
        whole: positions are whole numbers, since they are looked up in a table.
        raw_keys: keys stand in the cache as they are, and are turned in every step.
        causal_only: what it says of keys to the right is not meant.
        learned: has weights that a BERT folder does not have.
    """

    adds: str
    flash: bool = False
    sdpa: bool = True
    flex: bool = True
    even_heads: bool = False
    limited: bool = False
    whole: bool = False
    raw_keys: bool = False
    causal_only: bool = False
    learned: bool = False


# kinds that add to the scores run in eager attention where the others would not add it
_BIASED = {"sdpa": SCORES_TAKE_BIAS, "flex": SCORES_TAKE_BIAS}
POSITIONS = {
    "absolute": PositionKind("a learned vector per position to the embeddings", flash=True, limited=True, whole=True),
    "none": PositionKind("nothing; a causal mask alone tells a little", flash=True),
    "nezha": PositionKind(
        "sinusoids of the distance to keys and values", sdpa=False, flex=False, even_heads=True, whole=True
    ),
    "rope": PositionKind("a rotation of queries and keys", flash=True, even_heads=True),
    "xpos": PositionKind("RoPE, and a decay with the distance", even_heads=True, raw_keys=True, causal_only=True),
    "rerope": PositionKind("RoPE, no farther than a window", even_heads=True, raw_keys=True, **_BIASED),
    "leaky_rerope": PositionKind("RoPE, slower behind a window", even_heads=True, raw_keys=True, **_BIASED),
    "alibi": PositionKind("- slope * distance to the scores", **_BIASED),
    "kerple_log": PositionKind("- r1 log(1 + r2 distance) to the scores, learned", learned=True, **_BIASED),
    "kerple_power": PositionKind("- r1 distance^r2 to the scores, learned", learned=True, **_BIASED),
    "sandwich": PositionKind("the product of two positions' sinusoids to the scores", **_BIASED),
}


def alibi_slopes(num_heads: int) -> list[float]:
    """2^(-8 h / H) for h = 1 … H; where H is no power of two, those of the power below, and every second of the one
    above (arXiv 2108.12409)."""
    power = 2 ** int(math.log2(num_heads))
    slopes = [2.0 ** (-8.0 * (head + 1) / power) for head in range(power)]
    if power < num_heads:
        slopes += alibi_slopes(2 * power)[0::2][: num_heads - power]
    return slopes


def distances(query_positions: Tensor, key_positions: Tensor) -> Tensor:
    """(1 or B, L, S) query position minus key position: positive to the left."""
    return query_positions[:, :, None] - key_positions[:, None, :]


def alibi_bias(distance_BLS: Tensor, num_heads: int, dtype: torch.dtype) -> Tensor:
    """(1 or B, H, L, S), in both directions."""
    slopes_H = torch.tensor(alibi_slopes(num_heads), device=distance_BLS.device, dtype=dtype)
    return -slopes_H[:, None, None] * distance_BLS.abs()[:, None].to(dtype)


def sandwich_bias(distance_BLS: Tensor, num_heads: int, dtype: torch.dtype, size: int = 128) -> Tensor:
    """(1 or B, H, L, S): (sum_i cos(distance theta_i) - size / 2) / (8 h / H) for h = 1 … H (arXiv 2212.10356).

    The sum is the product of two sinusoidal position vectors of that size; it falls about like a logarithm.
    """
    wide = torch.promote_types(dtype, torch.float32)
    theta = 10000.0 ** (-2 * torch.arange(1, size // 2 + 1, device=distance_BLS.device, dtype=wide) / size)
    total_BLS = torch.full_like(distance_BLS, -size / 2, dtype=wide)
    for one in theta:  # summed one by one: (L, S, size) would be large
        total_BLS += (distance_BLS * one).cos()
    heads = 8 * torch.arange(1, num_heads + 1, device=theta.device, dtype=wide) / num_heads
    return (total_BLS[:, None] / heads[:, None, None]).to(dtype)


def kerple_bias(distance_BLS: Tensor, kind: str, log_r1_H: Tensor, raw_r2_H: Tensor) -> Tensor:
    """(1 or B, H, L, S) with r1 = e^{log_r1} > 0; r2 = e^{raw_r2} > 0 (log), 2 sigmoid(raw_r2) in (0, 2) (power), so
    that the kernels stay conditionally positive definite (arXiv 2205.09921)."""
    distance_BHLS = distance_BLS.abs()[:, None].to(log_r1_H.dtype)
    r1 = log_r1_H.exp()[:, None, None]
    if kind == "kerple_log":
        return -r1 * torch.log1p(raw_r2_H.exp()[:, None, None] * distance_BHLS)
    # a distance of 0 has no gradient in r2: 0^r2 is 0 for every one
    power = distance_BHLS.clamp_min(1e-6) ** (2 * raw_r2_H.sigmoid())[:, None, None]
    return -r1 * power * (distance_BHLS > 0)


def kerple_start(kind: str, num_heads: int) -> tuple[Tensor, Tensor]:
    """(log_r1, raw_r2) to start from, (H,) each. The power form starts as ALiBi, and the logarithm with ALiBi's slopes
    as r2; what the authors start from was not to be found."""
    log_slopes_H = torch.tensor(alibi_slopes(num_heads)).log()
    if kind == "kerple_power":
        return log_slopes_H, torch.zeros(num_heads)
    return torch.zeros(num_heads), log_slopes_H


def xpos_scales(positions_BS: Tensor, centre: Tensor, head_size: int, dtype: torch.dtype) -> Tensor:
    """(1 or B, 1, S, K) zeta^((position - centre) / 512) of each pair, zeta_i = (2i / K + .4) / 1.4 (arXiv 2212.10554).

    Queries are multiplied by it and keys divided; only the difference of positions stays. `centre` (1 or B, 1) in the
    middle of them keeps the factors small: they would be 5e8 at position 8192.
    """
    wide = torch.promote_types(dtype, torch.float32)
    pairs = torch.arange(0, head_size, 2, device=positions_BS.device, dtype=wide)
    log_zeta = ((pairs / head_size + 0.4) / 1.4).log()
    exponent_BS = (positions_BS - centre).to(wide) / 512
    return (exponent_BS[..., None] * log_zeta).exp().repeat_interleave(2, -1).to(dtype)[:, None]


def turned(states_BHSK: Tensor, positions_BS: Tensor, theta: float) -> Tensor:
    """Queries or keys turned by RoPE's angles of these positions, which may be fractions."""
    return rotate(states_BHSK, *rotary_angles(positions_BS, states_BHSK.shape[-1], theta, states_BHSK.dtype))


def rerope_correction(
    query_BHLK: Tensor,
    key_BHSK: Tensor,
    query_positions: Tensor,
    key_positions: Tensor,
    *,
    theta: float,
    window: int,
    slowdown: float | None,
) -> Tensor:
    """(B, H, L, S) what ReRoPE's products q.k have more than RoPE's, 0 inside the window.

    Behind it the distance counts as `window` (ReRoPE), or as (distance - window) / slowdown + window (Leaky ReRoPE), to
    the left and to the right. As a correction of the scores it goes through every attention function that takes a bias.

    Args:
        query_BHLK, key_BHSK: not turned.
        query_positions, key_positions: (1 or B, L) and (1 or B, S).
        theta: RoPE's base.
        window: distances under it are RoPE's.
        slowdown: None is ReRoPE.
    """
    wide = torch.promote_types(query_BHLK.dtype, torch.float32)
    query_positions, key_positions = query_positions.to(wide), key_positions.to(wide)
    near_BHLS = turned(query_BHLK, query_positions, theta) @ turned(key_BHSK, key_positions, theta).transpose(2, 3)
    distance_BHLS = distances(query_positions, key_positions)[:, None]
    factor = 0.0 if slowdown is None else 1 / slowdown
    correction = torch.zeros_like(near_BHLS)
    key_far = turned(key_BHSK, key_positions * factor, theta)
    for side in (1, -1):  # keys to the left, keys to the right
        is_far = side * distance_BHLS >= window
        # where a look does not wait, it may save the products
        if is_far.device.type == "cpu" and not torch.compiler.is_compiling() and not bool(is_far.any()):
            continue
        queries = query_positions * factor + side * window * (1 - factor)
        far_BHLS = turned(query_BHLK, queries, theta) @ key_far.transpose(2, 3)
        correction = torch.where(is_far, far_BHLS - near_BHLS, correction)
    return correction


def tokens_seen(
    position_ids: Tensor, attention_mask: Tensor | None, documents: Tensor | None, sees_all: Tensor | None
) -> Tensor:
    """(1 or B, L) how many tokens each of the new ones sees, itself among them, where no window hides any.

    Args:
        position_ids: (1 or B, L) counted from 0.
        attention_mask: (B, S) over cached and new tokens; what has no two dimensions pads on the left, if at all.
        documents: (1 or B, L) of packed rows.
        sees_all: (B, L) True for tokens that see each other, the others see their past; None is all the past.
    """
    past = position_ids + 1
    if sees_all is None:
        return past
    real = sees_all
    if attention_mask is not None and len(attention_mask.shape) == 2:
        real = sees_all & attention_mask[:, -past.shape[-1] :].bool()
    if documents is not None:
        number = ((documents[:, :, None] == documents[:, None, :]) & real[:, None]).sum(-1)
    elif attention_mask is None or len(attention_mask.shape) == 2:
        number = real.sum(-1, keepdim=True)
    else:
        number = torch.where(sees_all, past, 0).amax(-1, keepdim=True)
    return torch.where(sees_all, number, past)


def visible_keys(counted: Tensor, num_tokens: Tensor, window: int | None, sinks: int) -> Tensor:
    """(1 or B, L) how many keys a token sees, itself among them.

    Args:
        counted: (1 or B, L) its place in the text, from 0.
        num_tokens: (1 or B, L) what it would see without a window: the text from its first token on.
        window, sinks: `attention_window` and `attention_sinks`.
    """
    if window is None:
        return num_tokens
    low, high = (counted - window + 1).clamp_min(0), torch.minimum(counted + window, num_tokens) - 1
    sinks_left, sinks_right = low.clamp_max(sinks), (num_tokens.clamp_max(sinks) - high - 1).clamp_min(0)
    return high - low + 1 + sinks_left + sinks_right


def keys_counted(
    config: PreTrainedConfig,
    position_ids: Tensor,
    attention_mask: Tensor | None,
    documents: Tensor | None,
    sees_all: Tensor | None,
) -> Tensor | None:
    """(1 or B, L) how many keys a token sees, itself among them, as `tokens_seen` and `visible_keys` count them; None
    where the model does not ask (`log_n="off"`)."""
    if config.log_n == "off":
        return None
    num_tokens = tokens_seen(position_ids, attention_mask, documents, sees_all)
    return visible_keys(position_ids, num_tokens, config.attention_window, config.attention_sinks)


class Places(NamedTuple):
    """Where queries (1 or B, L) and keys (1 or B, S) stand, for kinds that need both."""

    queries: Tensor
    keys: Tensor


def log_n_scale(num_visible: Tensor, base: int, *, inference: bool, dtype: torch.dtype = torch.float32) -> Tensor:
    """log n / log base, the factor of the scores that keeps their entropy where n keys are visible (kexue.fm 8823).

    Args:
        num_visible: n, of any shape.
        base: the n whose scores stay as they are; the training length.
        inference: never under 1, for models that were trained without it.
        dtype: of what is multiplied; the scale is float32 at least.
    """
    scale = num_visible.clamp_min(1).to(torch.promote_types(dtype, torch.float32)).log() / math.log(base)
    return scale.clamp_min(1.0) if inference else scale
