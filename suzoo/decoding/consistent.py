"""Top-k and nucleus sampling that can always end: the end of the text is never filtered out.

Source: kexue.fm/archives/7500 after arXiv 2002.02492. A model whose hidden states are bounded gives the end a
probability of at least some epsilon in every step, so that plain sampling is longer than T tokens with a probability
of at most (1 - epsilon)^T. Top-k and top-p may set it to zero for ever; with the end kept, q(end) >= p(end), and the
bound holds again.

Shapes: N rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor, TopKLogitsWarper, TopPLogitsWarper


class _Consistent(LogitsProcessor):
    """A filter whose candidates are what `warper` keeps, and the end."""

    def __init__(self, warper: LogitsProcessor, eos_token_id: int | Sequence[int]) -> None:
        self.warper = warper
        self.eos_ids = [eos_token_id] if isinstance(eos_token_id, int) else list(eos_token_id)
        if not self.eos_ids:
            raise ValueError("eos_token_id is empty: a text needs a token that ends it")

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if not 0 <= min(self.eos_ids) <= max(self.eos_ids) < scores.shape[-1]:
            raise ValueError(f"eos_token_id {self.eos_ids} is no token of a vocabulary of {scores.shape[-1]}")
        eos = torch.tensor(self.eos_ids, device=scores.device)
        return self.warper(input_ids, scores).index_copy(-1, eos, scores.index_select(-1, eos))


class ConsistentTopKLogitsWarper(_Consistent):
    """transformers' `TopKLogitsWarper` and the end: k or k + 1 candidates, for `generate(..., do_sample=True)`.

    Give it as `logits_processor=[ConsistentTopKLogitsWarper(5, eos)]` together with `top_k=0`: what generate() makes of
    its own `top_k` (50 if nothing is said) runs afterwards. `min_new_tokens` forbids the end before this sees it, and
    wins. It stands behind `temperature` only if that is given as a processor, too.

    Args:
        top_k: candidates beside the end.
        eos_token_id: what ends a text, one token or several.

    Raises:
        ValueError: top_k is not positive, or an end is no token of the vocabulary.
    """

    def __init__(self, top_k: int, eos_token_id: int | Sequence[int]) -> None:
        super().__init__(TopKLogitsWarper(top_k), eos_token_id)


class ConsistentTopPLogitsWarper(_Consistent):
    """transformers' `TopPLogitsWarper` and the end. Give it with `top_k=0`, see `ConsistentTopKLogitsWarper`.

    Args:
        top_p: the smallest set of likeliest tokens with this much probability; 1 keeps all.
        eos_token_id: what ends a text, one token or several.

    Raises:
        ValueError: top_p is not between 0 and 1, or an end is no token of the vocabulary.
    """

    def __init__(self, top_p: float, eos_token_id: int | Sequence[int]) -> None:
        super().__init__(TopPLogitsWarper(top_p), eos_token_id)
