"""The house Transformer as one would write it on paper: one sentence, one head, one query at a time, no cache.

It reads a state dict with BERT's names and a boolean matrix of who may see whom, and knows nothing of masks, padding,
caches or attention functions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.reference.attention import linear


def may_see(rule: str, token_types: list[int]) -> Tensor:
    """(L, L) boolean, literally: entry [i, j] says whether token i may see token j."""
    size = len(token_types)
    allowed = torch.zeros(size, size, dtype=torch.bool)
    running = [sum(token_types[: i + 1]) for i in range(size)]
    for i in range(size):
        for j in range(size):
            allowed[i, j] = {
                "bidirectional": True,
                "causal": j <= i,
                "prefix": running[j] <= running[i],
                "off-diagonal": i != j,
            }[rule]
    return allowed


def sinusoid(position: float, size: int, theta: float = 10000.0) -> Tensor:
    row = torch.zeros(size, dtype=torch.float64)
    for i in range(size // 2):
        row[2 * i] = math.sin(position / theta ** (2 * i / size))
        row[2 * i + 1] = math.cos(position / theta ** (2 * i / size))
    return row


def turn_pairs(vector: Tensor, position: int, theta: float) -> Tensor:
    out = torch.empty_like(vector)
    for i in range(len(vector) // 2):
        angle = position / theta ** (2 * i / len(vector))
        x, y = vector[2 * i], vector[2 * i + 1]
        out[2 * i] = x * math.cos(angle) - y * math.sin(angle)
        out[2 * i + 1] = x * math.sin(angle) + y * math.cos(angle)
    return out


def score_bias(kind: str, distance: int, head: int, num_heads: int, learned: tuple[Tensor, Tensor] | None):
    """What a kind of positions adds to the score of two tokens, by the head (from 0) and its two learned numbers."""
    far = abs(distance)
    if kind == "alibi":
        return -(2.0 ** (-8 * (head + 1) / num_heads)) * far
    if kind == "sandwich":
        waves = sum(math.cos(far * 10000 ** (-2 * i / 128)) for i in range(1, 65))
        return (waves - 64) / (8 * (head + 1) / num_heads)
    if kind.startswith("kerple") and far:
        first, second = learned
        if kind == "kerple_log":
            return -first.exp() * torch.log(1 + second.exp() * far)
        return -first.exp() * far ** (2 * second.sigmoid())
    return 0.0


def counted_distance(config, distance: int) -> float:
    """By how much RoPE turns for two tokens."""
    kind, window = config.position_embedding_type, config.rope_window
    if abs(distance) < window or kind == "rope" or kind == "xpos":
        return distance
    behind = 0 if kind == "rerope" else (abs(distance) - window) / config.rope_slowdown
    return math.copysign(window + behind, distance)


def attend(
    queries: Tensor, keys: Tensor, values: Tensor, allowed: Tensor, config, head: int = 0, learned=None
) -> Tensor:
    """One head: (L, K) from queries, keys, values (L, K)."""
    num_heads = config.num_attention_heads
    size, kind, clip = queries.shape[1], config.position_embedding_type, config.max_relative_position
    rows = []
    for i, query in enumerate(queries):
        seen = [j for j in range(len(keys)) if allowed[i, j]]
        if not seen:
            rows.append(torch.zeros_like(query))
            continue
        if config.attention_type != "softmax":
            rows.append(linear(config.attention_type, query[None], keys[seen], values[seen], lambda i, j: True)[0])
            continue
        relative = [torch.zeros(size, dtype=torch.float64) for _ in seen]
        if kind == "nezha":
            relative = [sinusoid(max(-clip, min(clip, j - i)) + clip, size) for j in seen]
        if config.log_n != "off":
            factor = math.log(len(seen)) / math.log(config.log_n_base)
            query = query * (factor if config.log_n == "train" else max(1.0, factor))
        turned = [keys[j] for j in seen]
        if kind in ("rope", "xpos", "rerope", "leaky_rerope"):
            turned = [turn_pairs(keys[j], -counted_distance(config, i - j), config.rope_theta) for j in seen]
        if kind == "xpos":
            zeta = ((torch.arange(0, size, 2, dtype=torch.float64) / size + 0.4) / 1.4).repeat_interleave(2)
            turned = [key * zeta ** ((i - j) / 512) for key, j in zip(turned, seen, strict=True)]
        scores = torch.stack([query @ (key + r) for key, r in zip(turned, relative, strict=True)]) / math.sqrt(size)
        bias = [torch.as_tensor(score_bias(kind, i - j, head, num_heads, learned), dtype=scores.dtype) for j in seen]
        scores = scores + torch.stack(bias)
        weights = scores.softmax(0)
        rows.append(sum(w * (values[j] + r) for w, j, r in zip(weights, seen, relative, strict=True)))
    return torch.stack(rows)


def logits(state: dict[str, Tensor], config, ids: list[int], types: list[int], rule: str, word: Tensor | None = None):
    """(L, V) logits of one sentence without padding. `word` (L, D) replaces the word embeddings, for gradients."""
    eps, size = config.layer_norm_eps, config.hidden_size // config.num_attention_heads

    def dense(x, name):
        return x @ state[name + ".weight"].T + state[name + ".bias"]

    def norm(x, name):
        return F.layer_norm(x, (x.shape[-1],), state[name + ".weight"], state[name + ".bias"], eps)

    def embed(word):
        out = word + state["bert.embeddings.token_type_embeddings.weight"][types]
        if config.position_embedding_type == "absolute":
            out = out + state["bert.embeddings.position_embeddings.weight"][: len(ids)]
        return norm(out, "bert.embeddings.LayerNorm")

    table = state["bert.embeddings.word_embeddings.weight"]
    hidden = embed(table[ids] if word is None else word)
    memory = None
    if rule == "off-diagonal":
        memory = hidden
        start = table[config.mask_token_id] if config.query_init == "mask" else torch.zeros_like(table[0])
        hidden = embed(start.expand(len(ids), -1))
    allowed = may_see(rule, types)
    if config.attention_window is not None:
        for i in range(len(ids)):
            for j in range(len(ids)):
                allowed[i, j] &= abs(i - j) < config.attention_window or j < config.attention_sinks
    for layer in range(config.num_hidden_layers):
        name = f"bert.encoder.layer.{layer}"
        first, second = f"{name}.attention.output", f"{name}.output"
        x = norm(hidden, first + ".LayerNorm") if config.norm_first else hidden
        source = x if memory is None else memory
        q, k, v = (
            dense(inputs, f"{name}.attention.self.{part}")
            for part, inputs in (("query", x), ("key", source), ("value", source))
        )
        heads = [slice(h * size, (h + 1) * size) for h in range(config.num_attention_heads)]
        learned = [None] * len(heads)
        if config.position_embedding_type.startswith("kerple"):
            numbers = (state[f"{name}.attention.self.log_r1"], state[f"{name}.attention.self.raw_r2"])
            learned = list(zip(*numbers, strict=True))
        attended = torch.cat(
            [attend(q[:, h], k[:, h], v[:, h], allowed, config, n, learned[n]) for n, h in enumerate(heads)], dim=-1
        )
        hidden = hidden + dense(attended, first + ".dense")
        hidden = hidden if config.norm_first else norm(hidden, first + ".LayerNorm")
        x = norm(hidden, second + ".LayerNorm") if config.norm_first else hidden
        hidden = hidden + dense(F.gelu(dense(x, f"{name}.intermediate.dense")), second + ".dense")
        hidden = hidden if config.norm_first else norm(hidden, second + ".LayerNorm")
    if config.norm_first:
        hidden = norm(hidden, "bert.encoder.LayerNorm")
    head = "cls.predictions.transform"
    hidden = norm(F.gelu(dense(hidden, head + ".dense")), head + ".LayerNorm")
    return hidden @ table.T + state["cls.predictions.bias"]
