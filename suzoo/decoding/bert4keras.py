"""Beam search as bert4keras does it, for numbers comparable with those published with it.

Source: bojone/bert4keras, snippets.py, `AutoRegressiveDecoder.beam_search`; behind kexue.fm/archives/6933 and 7758. It
is not transformers' beam search: scores are sums without length normalisation. A finished beam is returned only if it
is the best at that moment; else it is thrown away for good, with its place. `num_beams=1` is greedy search. A rule in
`model.config.self_terminating` is at work here, too.

Shapes: N beams, S source, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel

from suzoo.models._self_terminating import SelfTerminatingHead
from suzoo.models._versions import cache_field


@torch.no_grad()
def bert4keras_beam_search(
    model: PreTrainedModel,
    source_ids: Sequence[int],
    *,
    num_beams: int,
    max_new_tokens: int,
    end_id: int,
    min_new_tokens: int = 1,
) -> list[int]:
    """The target for one source, `end_id` included if it was reached.

    Args:
        model: `UniLMForCausalLM` in evaluation mode, or another causal model with token types 0 for the prompt and 1
            for what follows.
        source_ids: `[CLS] source [SEP]`.
        num_beams: beams at the start; each thrown away beam leaves one less.
        max_new_tokens: then the best unfinished beam is returned as it is.
        end_id: id of [SEP].
        min_new_tokens: from this length on (`end_id` included) a beam may finish.

    Raises:
        ValueError: a count is not positive.
    """
    if min(num_beams, max_new_tokens, min_new_tokens) < 1 or not source_ids:
        raise ValueError("num_beams, max_new_tokens, min_new_tokens and the source must be at least 1")
    device = model.device
    head = SelfTerminatingHead.of_config(model.config, end_id)
    rule = None if head is None else head.processor()
    cache = DynamicCache(config=model.config)
    ids = torch.tensor([list(source_ids)], device=device)
    types = torch.zeros_like(ids)
    targets: list[list[int]] = [[]]
    scores_N = torch.zeros(1, device=device)
    for length in range(1, max_new_tokens + 1):
        outputs: Any = model(input_ids=ids, token_type_ids=types, use_cache=True, **cache_field(cache))
        logits_NV = outputs.logits[:, -1].float()
        if rule is not None:
            logits_NV = rule(torch.tensor([[*source_ids, *target] for target in targets], device=device), logits_NV)
        probabilities_NV = logits_NV.softmax(-1)
        total_NV = scores_N[:, None] + (probabilities_NV + 1e-12).log()
        # in the first step there is one row to choose from, however many beams are wanted
        scores_N, chosen_N = total_NV.flatten().topk(min(num_beams, total_NV.numel()))
        rows, tokens = (chosen_N // total_NV.shape[1]).tolist(), (chosen_N % total_NV.shape[1]).tolist()
        targets = [[*targets[row], token] for row, token in zip(rows, tokens, strict=True)]
        if length >= min_new_tokens:
            if tokens[0] == end_id:  # topk sorts: beam 0 is the best
                return targets[0]
            going = [beam for beam, token in enumerate(tokens) if token != end_id]
            rows, tokens = [rows[beam] for beam in going], [tokens[beam] for beam in going]
            targets, scores_N, num_beams = [targets[beam] for beam in going], scores_N[going], len(going)
        cache.batch_select_indices(torch.tensor(rows, device=device))
        ids = torch.tensor(tokens, device=device)[:, None]
        types = torch.ones_like(ids)
    return targets[0]
