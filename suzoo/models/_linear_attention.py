"""Attention in linear time: a sum of phi(k) v^T in place of a table of scores.

Sources: kexue.fm/archives/7546; arXiv 2006.16236 (elu + 1), 1812.01243 (efficient attention).

    o_i = sum_j sim(q_i, k_j) v_j / sum_j sim(q_i, k_j)        sim(q, k) = phi(q) . phi(k) >= 0

    elu1       phi(x) = elu(x) + 1
    taylor1    sim = 1 + q.k of normalized q and k                 (Su's: e^x = 1 + x + …)
    taylor2    sim = 1 + x + x^2 / 2 of x = q.k / sqrt(K)          1 + K + K^2 features
    efficient  softmax of q over its features, softmax of k over the tokens, which sums to 1 by itself

Causal attention keeps the state S = sum phi(k) v^T and z = sum phi(k), whose size does not grow with the text; in
chunks it is a product of matrices. Everything is summed in float32 at least.

Shapes: B batch, H heads, L queries, S keys, K head size, V value size, F features.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin, StaticCache

LINEAR_KINDS = ("elu1", "taylor1", "taylor2", "efficient")
MOST_AT_ONCE = 2**16  # numbers in the states or scores of one head that exist at once


class LinearState(NamedTuple):
    """What causal attention remembers: (B, H, F, V), (B, H, F), and of `efficient` the largest k so far (B, H, F)."""

    values: Tensor
    keys: Tensor
    largest: Tensor | None


def features(states: Tensor, kind: str) -> Tensor:
    """(..., K) to phi (..., F), for the kinds that have one."""
    if kind == "elu1":
        return torch.nn.functional.elu(states) + 1
    if kind == "taylor1":
        return torch.cat([torch.ones_like(states[..., :1]), torch.nn.functional.normalize(states, dim=-1)], -1)
    if kind == "taylor2":
        states = states * states.shape[-1] ** -0.25
        pairs = (states[..., :, None] * states[..., None, :]).flatten(-2) * 0.5**0.5
        return torch.cat([torch.ones_like(states[..., :1]), states, pairs], -1)
    raise ValueError(f"the kind of linear attention is one of {LINEAR_KINDS}, not {kind!r}")


def linear_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    kind: str = "elu1",
    is_causal: bool,
    key_mask: Tensor | None = None,
    state: LinearState | None = None,
    chunk_size: int = 64,
    eps: float = 1e-6,
) -> tuple[Tensor, LinearState]:
    """Linear attention over a whole text, or over the next tokens of one.

    Args:
        query: (B, H, L, K).
        key: (B, H, S, K); causal: S = L.
        value: (B, H, S, V).
        kind: see the module.
        is_causal: a query sees its own key and those before; else all.
        key_mask: (B, S), 0 for padding, which then has no part in numerator or denominator.
        state: causal, of the tokens before. chunk_size: causal, tokens whose scores exist at once.
        eps: least denominator, for queries that see nothing.

    Returns:
        (B, H, L, V) in the dtype of `value`, and the state behind the last token.

    Raises:
        ValueError: the kind is unknown, or the arguments belong to the other direction.
    """
    if kind not in LINEAR_KINDS:
        raise ValueError(f"the kind of linear attention is one of {LINEAR_KINDS}, not {kind!r}")
    if is_causal and query.shape[2] != key.shape[2]:
        raise ValueError(f"causal linear attention has a key for each query, not {key.shape[2]} for {query.shape[2]}")
    if state is not None and not is_causal:
        raise ValueError("a state goes with causal attention")
    wide = torch.promote_types(query.dtype, torch.float32)
    query, key, values = query.to(wide), key.to(wide), value.to(wide)
    seen = None if key_mask is None else key_mask.bool()[:, None, :, None]
    if kind == "efficient":
        output, state = _efficient(query, key, values, seen, is_causal, state, chunk_size, eps)
        return output.to(value.dtype), state
    phi_q, phi_k = features(query, kind), features(key, kind)
    if seen is not None:
        phi_k = phi_k * seen
    if not is_causal:
        state = LinearState(phi_k.transpose(2, 3) @ values, phi_k.sum(2), None)
        output = phi_q @ state.values / (phi_q @ state.keys[..., None]).clamp_min(eps)
        return output.to(value.dtype), state
    state = state or _empty(phi_k, values, with_largest=False)
    # a column of ones beside the values sums up the denominator
    ones = torch.nn.functional.pad(values, (0, 1), value=1.0)
    sums = torch.cat([state.values, state.keys[..., None]], -1)
    # as many chunks at once as have room for their states: on a CPU in its cache, elsewhere few kernels are fast
    most = MOST_AT_ONCE * (1 if query.device.type == "cpu" else 64)
    length = chunk_size * max(1, most // (chunk_size * max(chunk_size, sums.shape[-2])))
    parts = []
    for q, k, v in zip(*(x.split(length, 2) for x in (phi_q, phi_k, ones)), strict=True):
        part, sums = _causal_chunks(q, k, v, sums, chunk_size)
        parts.append(part[..., :-1] / part[..., -1:].clamp_min(eps))
    output = torch.cat(parts, 2) if len(parts) > 1 else parts[0]
    return output.to(value.dtype), LinearState(sums[..., :-1], sums[..., -1], None)


def _causal_chunks(query: Tensor, key: Tensor, value: Tensor, sums: Tensor, chunk_size: int) -> tuple[Tensor, Tensor]:
    """(B, H, L, V) sum_j (q . k_j) v_j over the tokens before and a query's own, and the sum of k v^T behind the last.

    Every product is one of all chunks, N of C tokens: C x C scores inside, and the sums of the chunks before.

    Args:
        query, key: (B, H, L, F) features.
        value: (B, H, L, V).
        sums: (B, H, F, V) of k v^T over the tokens before.
    """
    length = query.shape[2]
    if length <= chunk_size:  # also a step of decoding
        scores = (query @ key.transpose(2, 3)).tril()
        return scores @ value + query @ sums, sums + key.transpose(2, 3) @ value
    if missing := -length % chunk_size:
        query, key, value = (torch.nn.functional.pad(x, (0, 0, 0, missing)) for x in (query, key, value))
    sizes = (*query.shape[:2], query.shape[2] // chunk_size)
    q, k, v = (x.reshape(-1, chunk_size, x.shape[-1]) for x in (query, key, value))
    per_chunk = (k.transpose(1, 2) @ v).view(*sizes, -1)
    earlier = per_chunk.new_ones(sizes[2] + 1, sizes[2]).tril(-1)
    before = (sums.flatten(2)[:, :, None] + earlier @ per_chunk).unflatten(-1, sums.shape[2:])
    scores = (q @ k.transpose(1, 2)).tril_()
    output = torch.baddbmm(q @ before[:, :, :-1].flatten(0, 2), scores, v).view(*sizes[:2], -1, v.shape[-1])
    return output[:, :, :length] if missing else output, before[:, :, -1]


def _empty(phi_k: Tensor, values: Tensor, *, with_largest: bool) -> LinearState:
    sizes = (*phi_k.shape[:2], phi_k.shape[-1])
    largest = phi_k.new_full(sizes, -torch.inf) if with_largest else None
    return LinearState(phi_k.new_zeros(*sizes, values.shape[-1]), phi_k.new_zeros(sizes), largest)


def _efficient(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    seen: Tensor | None,
    is_causal: bool,
    state: LinearState | None,
    chunk_size: int,
    eps: float,
) -> tuple[Tensor, LinearState]:
    """softmax over features of q, softmax over the visible tokens of each feature of k.

    Causal, the softmax over the tokens is that of the past, with the largest k so far taken out of the exponent. In
    float32 a feature of k may differ by 80 between two tokens of a chunk; what lies farther below counts as nothing.
    """
    query = query.softmax(-1)
    if seen is not None:
        key = key.masked_fill(~seen, -torch.inf)
    state = state or _empty(key, value, with_largest=True)
    if not is_causal:
        state, _, _ = _read(state, key, value)
        return query / state.keys[:, :, None].clamp_min(eps**4) @ state.values, state
    parts = []
    for q, k, v in zip(*(x.split(chunk_size, 2) for x in (query, key, value)), strict=True):
        behind, before, phi_k = _read(state, k, v)
        q = q / (phi_k.cumsum(2) + before.keys[:, :, None]).clamp_min(eps**4)
        parts.append((q @ phi_k.transpose(2, 3)).tril() @ v + q @ before.values)
        state = behind
    return torch.cat(parts, 2), state


def _read(state: LinearState, key: Tensor, value: Tensor) -> tuple[LinearState, LinearState, Tensor]:
    """The state behind these tokens, the one before them at the same scale, and e^(k - largest)."""
    assert state.largest is not None
    largest = torch.maximum(state.largest, key.amax(2))
    base = largest.masked_fill(largest == -torch.inf, 0.0)  # nothing was seen yet
    phi_k, decay = (key - base[:, :, None]).exp(), (state.largest - base).exp()
    before = LinearState(state.values * decay[..., None], state.keys * decay, largest)
    return (
        LinearState(before.values + phi_k.transpose(2, 3) @ value, before.keys + phi_k.sum(2), largest),
        before,
        phi_k,
    )


def linear_attention_of_others(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    kind: str,
    key_mask: Tensor | None = None,
    chunk_size: int = 64,
    eps: float = 1e-6,
) -> Tensor:
    """Linear attention of every query to all keys but its own, as T-TA's, in both directions.

    Its own key would be easy to take out of the sum of all, and would stay there as a rounding error, from which a
    model can learn to read it. So the chunks before and those behind are summed apart, and nothing is subtracted: the
    output does not depend on a bit of its own key and value.

    Args:
        query, key, value: (B, H, L, K), (B, H, L, K) and (B, H, L, V).
        kind: `elu1`, `taylor1` or `taylor2`.
        key_mask: (B, L), 0 for padding.
        chunk_size: tokens whose scores exist at once. eps: least denominator, for queries that see nothing.

    Returns:
        (B, H, L, V) in the dtype of `value`; zeros where there is no other key.
    """
    wide, length = torch.promote_types(query.dtype, torch.float32), query.shape[2]
    phi_q, phi_k = features(query.to(wide), kind), features(key.to(wide), kind)
    if key_mask is not None:
        phi_k = phi_k * key_mask.bool()[:, None, :, None]
    # a column of ones beside the values sums up the denominator
    ones = torch.nn.functional.pad(value.to(wide), (0, 1), value=1.0)
    if length <= chunk_size:
        output = _of_others(phi_q, phi_k, ones)
    else:
        missing = -length % chunk_size
        q, k, v = (
            torch.nn.functional.pad(x, (0, 0, 0, missing)).unflatten(2, (-1, chunk_size)) for x in (phi_q, phi_k, ones)
        )
        sums = k.transpose(3, 4) @ v  # (B, H, chunks, F, V + 1)
        none = torch.zeros_like(sums[:, :, :1])
        before = torch.cat([none, sums[:, :, :-1]], 2).cumsum(2)
        behind = torch.cat([sums[:, :, 1:], none], 2).flip(2).cumsum(2).flip(2)
        output = (_of_others(q, k, v) + q @ (before + behind)).flatten(2, 3)[:, :, :length]
    return (output[..., :-1] / output[..., -1:].clamp_min(eps)).to(value.dtype)


def _of_others(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """(..., C, V) sum of (q . k_j) v_j over all tokens of a chunk but a query's own, of (..., C, F) and (..., C, V)."""
    itself = torch.eye(query.shape[-2], dtype=torch.bool, device=query.device)
    return (query @ key.transpose(-1, -2)).masked_fill(itself, 0.0) @ value


def prefix_linear_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    kind: str,
    key_mask: Tensor | None,
    is_source: Tensor | None,
    state: LinearState | None,
) -> tuple[Tensor, LinearState]:
    """Source tokens attend to the whole source; target tokens to the source, their past and themselves.

    Args:
        query, key, value: (B, H, L, K) of the new tokens.
        kind: see the module.
        key_mask: (B, L), 0 for padding.
        is_source: (B, L) boolean; None where all is target, that is causal.
        state: of the tokens before, behind which everything is target.
    """
    if state is None and is_source is not None and is_source.device.type == "cpu" and not torch.compiler.is_compiling():
        is_source = is_source if bool(is_source.any()) else None  # on an accelerator a look would wait
    if state is not None or is_source is None:
        return linear_attention(query, key, value, kind=kind, is_causal=True, key_mask=key_mask, state=state)
    real = is_source if key_mask is None else key_mask.bool()
    of_source, source = linear_attention(query, key, value, kind=kind, is_causal=False, key_mask=is_source & real)
    targets = ~is_source if key_mask is None else ~is_source & real
    of_target, state = linear_attention(query, key, value, kind=kind, is_causal=True, key_mask=targets, state=source)
    return torch.where(is_source[:, None, :, None], of_source, of_target), state


class LinearLayer(CacheLayerMixin):
    """A layer of a cache that holds a `LinearState`: its size does not grow, and what was read cannot be taken back."""

    is_croppable = False

    def __init__(self) -> None:
        super().__init__()
        self.state: LinearState | None = None
        self.num_seen = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        raise NotImplementedError("a linear layer is filled by `replace`")

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        raise NotImplementedError("a linear layer is filled by `replace`")

    def replace(self, state: LinearState, num_new: int) -> None:
        self.state, self.num_seen, self.is_initialized = state, self.num_seen + num_new, True

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.num_seen + query_length, 0

    def get_seq_length(self) -> int:
        return self.num_seen

    def get_max_length(self) -> int:
        return -1

    get_max_cache_shape = get_max_length  # its name before 5.17

    def crop(self, tokens_to_remove: int) -> None:
        raise ValueError("linear attention cannot take back what it has read: compute the text anew")

    def reset(self) -> None:
        self.state, self.num_seen, self.is_initialized = None, 0, False

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self.batch_select_indices(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        self._each(lambda part: part.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        self._each(lambda part: part.index_select(0, indices.to(part.device)))

    def _each(self, change: Any) -> None:
        if self.state is not None:
            values, keys, largest = self.state
            self.state = LinearState(change(values), change(keys), None if largest is None else change(largest))


def refuse_packed(documents: Tensor | None) -> None:
    if documents is not None:
        raise ValueError("linear attention sums over a whole row: pad the texts of a batch instead of packing them")


def linear_layer(cache: Cache, layer_idx: int) -> LinearLayer:
    """That layer of the cache; an empty cache as generate() makes it gets linear layers in place of its own.

    Raises:
        ValueError: the cache is static, or was filled by another kind of attention.
    """
    if isinstance(cache, StaticCache):
        raise ValueError("linear attention has a cache of its own, of constant size: leave cache_implementation out")
    if layer_idx == 0 and not (cache.layers and isinstance(cache.layers[0], LinearLayer)):
        if cache.get_seq_length() > 0:
            raise ValueError("the cache was filled by another kind of attention: begin with an empty one")
        cache.layers = []
    while len(cache.layers) <= layer_idx:
        cache.layers.append(LinearLayer())
    layer = cache.layers[layer_idx]
    assert isinstance(layer, LinearLayer)
    return layer
