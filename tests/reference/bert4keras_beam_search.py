"""bert4keras' beam search written out, without a cache: dictionaries of hypotheses, one full forward each."""

from __future__ import annotations

import torch


def beam_search(model, source, num_beams, max_new_tokens, end_id, min_new_tokens=1):
    """The returned target, its score, and the scores of the finished hypotheses that were thrown away."""
    beams, thrown = {(): 0.0}, {}
    for length in range(1, max_new_tokens + 1):
        grown = {}
        for target, score in beams.items():
            ids = torch.tensor([[*source, *target]])
            types = torch.tensor([[0] * len(source) + [1] * len(target)])
            probabilities = model(ids, token_type_ids=types, use_cache=False).logits[0, -1].softmax(-1)
            for token, probability in enumerate(probabilities.tolist()):
                grown[(*target, token)] = score + torch.tensor(probability + 1e-12, dtype=torch.float64).log().item()
        best = sorted(grown, key=grown.get, reverse=True)[:num_beams]
        beams = {target: grown[target] for target in best}
        if length >= min_new_tokens:
            if best[0][-1] == end_id:
                return list(best[0]), beams[best[0]], thrown
            thrown |= {target: score for target, score in beams.items() if target[-1] == end_id}
            beams = {target: score for target, score in beams.items() if target[-1] != end_id}
            num_beams = len(beams)
    winner = max(beams, key=beams.get)
    return list(winner), beams[winner], thrown
