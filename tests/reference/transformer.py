"""The house Transformer as one would write it on paper: one sentence, one head, one query at a time, no cache.

It reads a state dict with BERT's names and a boolean matrix of who may see whom, and knows nothing of masks, padding,
caches or attention functions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


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


def attend(queries: Tensor, keys: Tensor, values: Tensor, allowed: Tensor, config) -> Tensor:
    """One head: (L, K) from queries, keys, values (L, K)."""
    size, kind, clip = queries.shape[1], config.position_embedding_type, config.max_relative_position
    rows = []
    for i, query in enumerate(queries):
        seen = [j for j in range(len(keys)) if allowed[i, j]]
        if not seen:
            rows.append(torch.zeros_like(query))
            continue
        relative = [torch.zeros(size, dtype=torch.float64) for _ in seen]
        if kind == "nezha":
            relative = [sinusoid(max(-clip, min(clip, j - i)) + clip, size) for j in seen]
        if kind == "rope":
            query = turn_pairs(query, i, config.rope_theta)
            turned = [turn_pairs(keys[j], j, config.rope_theta) for j in seen]
        else:
            turned = [keys[j] for j in seen]
        scores = torch.stack([query @ (key + r) for key, r in zip(turned, relative, strict=True)]) / math.sqrt(size)
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
    for n in range(config.num_hidden_layers):
        name = f"bert.encoder.layer.{n}"
        first, second = f"{name}.attention.output", f"{name}.output"
        x = norm(hidden, first + ".LayerNorm") if config.norm_first else hidden
        source = x if memory is None else memory
        q, k, v = (
            dense(inputs, f"{name}.attention.self.{part}")
            for part, inputs in (("query", x), ("key", source), ("value", source))
        )
        heads = [slice(h * size, (h + 1) * size) for h in range(config.num_attention_heads)]
        attended = torch.cat([attend(q[:, h], k[:, h], v[:, h], allowed, config) for h in heads], dim=-1)
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
