"""Decoding that must end: the end of a text gets a probability that goes to one.

Source: kexue.fm/archives/7500; self-terminating models (arXiv 2002.02492) and their non-monotonic form (arXiv
2210.00660). At step t = 0, 1, … of a continuation let s_t be the probability of the end under the model alone. Then

    monotonic        p_t(end) = 1 - prod_{i <= t} (1 - epsilon) (1 - s_i)
    non-monotonic    p_t(end) = 1 - (1 - s_t) (1 - epsilon)^(t + 1)

and the other tokens share the rest as before. Both are at least 1 - (1 - epsilon)^(t + 1), so that greedy search has
ended after ln 2 / -ln(1 - epsilon) steps. The articles take 1 - s_t = sigmoid(w h_t + b) from a layer of its own; here
it is what the softmax says. So a trained model needs no new weights, and epsilon -> 0 of the non-monotonic form is the
model as it was. The rule is the same on logits and on the log-probabilities of beam search.

Shapes: N rows, B batch, L tokens, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedConfig


@dataclass(frozen=True)
class SelfTerminatingHead:
    """The rule for any causal language model, in training (`loss`) and in `generate()` (`processor`).

    Args:
        eos_token_id: what ends a text; several share the probability of the end as the model says.
        epsilon: in (0, 1); the share of the probability that goes to the end in each step at least.
        monotonic: the self-terminating form, whose probability of the end never falls; False is the non-monotonic one.
    """

    eos_token_id: int | Sequence[int]
    epsilon: float = 1e-3
    monotonic: bool = True

    def __post_init__(self) -> None:
        if not 0.0 < self.epsilon < 1.0:
            raise ValueError(f"epsilon is between 0 and 1, not {self.epsilon}")
        if not self.eos_ids:
            raise ValueError("eos_token_id is empty: a text needs a token that ends it")

    @property
    def eos_ids(self) -> list[int]:
        return [self.eos_token_id] if isinstance(self.eos_token_id, int) else list(self.eos_token_id)

    @property
    def max_greedy_steps(self) -> int:
        """Tokens, the end among them, after which greedy search has ended: from then on the end has more than half."""
        return math.floor(math.log(2) / -math.log1p(-self.epsilon)) + 1

    @classmethod
    def of_config(cls, config: PreTrainedConfig, eos_token_id: int | Sequence[int]) -> SelfTerminatingHead | None:
        """The rule that `config.self_terminating` names, or None where there is none."""
        options = getattr(config, "self_terminating", None)
        return cls(eos_token_id, **options) if options else None

    def write(self, config: PreTrainedConfig) -> None:
        """Note the rule in a model's configuration, so that it is saved with it."""
        options = asdict(self)
        del options["eos_token_id"]  # generation_config has it
        config.self_terminating = options

    def processor(self) -> SelfTerminatingLogitsProcessor:
        """For `generate(..., logits_processor=[head.processor()])`; a new one for every call."""
        return SelfTerminatingLogitsProcessor(self)

    def log_probs(self, logits: Tensor, is_start: Tensor) -> Tensor:
        """Log-probabilities (B, L, V), float32 at least.

        Args:
            logits: (B, L, V) of a causal model.
            is_start: (B, L) boolean, True where the first token of a continuation is predicted (t = 0). What stands
                before the first start counts from the row's first token.
        """
        logits_BLV, log_end_BL, log_rest_BL = self._parts(logits)
        log_alive_BL = self._log_alive(log_end_BL - log_rest_BL, is_start)
        return self._combine(logits_BLV, log_end_BL, log_rest_BL, log_alive_BL)

    def loss(
        self,
        logits: Tensor,
        labels: Tensor,
        *,
        token_type_ids: Tensor | None = None,
        num_items: int | Tensor | None = None,
        shift: bool = True,
    ) -> Tensor:
        """Negative log-likelihood of the labels, per label or divided by `num_items`.

        A continuation starts at the first label behind ignored ones, and behind every end.

        Args:
            logits: (B, L, V) of a causal model.
            labels: (B, L) token ids, shifted inside as in transformers; -100 is ignored.
            token_type_ids: (B, L) of UniLM, where labels on the source (type 0) are ignored, as in its own loss.
            num_items: what the sum is divided by; default the number of labels. For transformers' Trainer:
                `compute_loss_func=lambda outputs, labels, num_items_in_batch=None: head.loss(outputs.logits, labels,
                num_items=num_items_in_batch)`.
            shift: False for labels that already stand where they are predicted.
        """
        if token_type_ids is not None:
            labels = labels.masked_fill(token_type_ids == 0, -100)
        if shift:
            labels = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100)
        is_label_BL = labels != -100
        total = self.nll_sum(logits[is_label_BL], labels[is_label_BL], self.starts(labels)[is_label_BL])
        return total / (is_label_BL.sum().clamp_min(1) if num_items is None else num_items)

    def starts(self, labels: Tensor) -> Tensor:
        """(B, L) boolean, where continuations start: `labels` (B, L) stand where they are predicted."""
        going_BL = (labels != -100) & ~torch.isin(labels, torch.tensor(self.eos_ids, device=labels.device))
        return (labels != -100) & ~torch.nn.functional.pad(going_BL, (1, 0))[:, :-1]

    def nll_sum(self, logits: Tensor, labels: Tensor, is_start: Tensor) -> Tensor:
        """Summed negative log-likelihood of N labelled places, row after row: logits (N, V), labels and starts (N,)."""
        if not labels.numel():
            return logits.float().sum() * 0.0  # attached
        logits_NV, log_end_N, log_rest_N = self._parts(logits)
        log_alive_N = self._log_alive(log_end_N - log_rest_N, is_start)
        target_N = logits_NV.gather(-1, labels[:, None])[:, 0]
        is_end_N = torch.isin(labels, torch.tensor(self.eos_ids, device=labels.device))
        log_share_N = target_N - torch.where(is_end_N, log_end_N, log_rest_N)
        return -(torch.where(is_end_N, _log1mexp(log_alive_N), log_alive_N) + log_share_N).sum().to(logits_NV.dtype)

    def _parts(self, logits_BLV: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The logits in float32 at least, and the logarithms (B, L) of their sums over the ends and over the rest."""
        if max(self.eos_ids) >= logits_BLV.shape[-1] or min(self.eos_ids) < 0:
            raise ValueError(f"eos_token_id {self.eos_token_id} is no token of a vocabulary of {logits_BLV.shape[-1]}")
        logits_BLV = logits_BLV.to(torch.promote_types(logits_BLV.dtype, torch.float32))
        eos = torch.tensor(self.eos_ids, device=logits_BLV.device)
        log_end_BL = logits_BLV.index_select(-1, eos).logsumexp(-1)
        log_rest_BL = logits_BLV.index_fill(-1, eos, -torch.inf).logsumexp(-1)
        return logits_BLV, log_end_BL, log_rest_BL

    def _log_alive(self, log_odds_BL: Tensor, is_start_BL: Tensor) -> Tensor:
        """log(1 - p_t(end)), in float64: near t = 0 it is as small as epsilon, behind sums over the whole row."""
        steps_L = torch.arange(log_odds_BL.shape[-1], device=log_odds_BL.device)
        start_BL = torch.where(is_start_BL, steps_L, 0).cummax(-1).values
        log_stay_BL = _log_stay(log_odds_BL)
        if not self.monotonic:
            return log_stay_BL + (steps_L - start_BL + 1).to(log_stay_BL.dtype) * math.log1p(-self.epsilon)
        log_stay_BL = log_stay_BL + math.log1p(-self.epsilon)
        total_BL = log_stay_BL.cumsum(-1)
        return total_BL - (total_BL - log_stay_BL).gather(-1, start_BL)

    def _combine(self, logits: Tensor, log_end: Tensor, log_rest: Tensor, log_alive: Tensor) -> Tensor:
        """Log-probabilities (..., V): the end gets what is not alive, the others share the rest as before."""
        eos = torch.tensor(self.eos_ids, device=logits.device)
        others = logits - log_rest[..., None] + log_alive[..., None].to(logits.dtype)
        ends = logits.index_select(-1, eos) - log_end[..., None] + _log1mexp(log_alive)[..., None].to(logits.dtype)
        return others.index_copy(-1, eos, ends)


def _log_stay(log_odds: Tensor) -> Tensor:
    """log(1 - s) of the model's own end, in float64 where the device has it."""
    wide = torch.float32 if log_odds.device.type == "mps" else torch.float64
    return torch.nn.functional.logsigmoid(-log_odds.to(wide))


def _log1mexp(x: Tensor) -> Tensor:
    """log(1 - e^x) of x < 0."""
    return torch.log(-torch.expm1(x))


class SelfTerminatingLogitsProcessor(LogitsProcessor):
    """`SelfTerminatingHead` inside one call of `generate()`: greedy, sampling, beams or with an assistant, batched.

    The prompt ends where it is first called. What a row has behind it is found by its tokens, so that beams may change
    places. Where the end is forbidden (`min_new_tokens`) the scores stay as they are and the steps count.
    """

    def __init__(self, head: SelfTerminatingHead) -> None:
        self.head = head
        self.prompt_length: int | None = None
        self._alive: dict[int, tuple[Tensor, Tensor]] = {}  # length -> (tokens, log of the survival) of all rows

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if self.prompt_length is None:
            self.prompt_length = input_ids.shape[1]
        step = input_ids.shape[1] - self.prompt_length
        logits_NV, log_end_N, log_rest_N = self.head._parts(scores)
        log_odds_N = log_end_N - log_rest_N
        log_stay_N = _log_stay(log_odds_N)
        log_epsilon = math.log1p(-self.head.epsilon)
        if self.head.monotonic:
            log_alive_N = log_stay_N + log_epsilon + (self._behind(input_ids) if step else 0.0)
            self._alive[input_ids.shape[1]] = (input_ids.clone(), log_alive_N)
            # an assistant's wrong guesses are taken back, but not further than this
            self._alive.pop(input_ids.shape[1] - 64, None)
        else:
            log_alive_N = log_stay_N + (step + 1) * log_epsilon
        combined_NV = self.head._combine(logits_NV, log_end_N, log_rest_N, log_alive_N)
        is_decided_N = log_odds_N.isinf()  # the end is forbidden, or forced: both by -inf
        return torch.where(is_decided_N[:, None] | scores.isneginf(), scores, combined_NV.to(scores.dtype))

    def _behind(self, input_ids: Tensor) -> Tensor:
        """(N,) the logarithm of the survival that each row had one token before."""
        tokens, log_alive = self._alive.get(input_ids.shape[1] - 1, (None, None))
        if tokens is None or log_alive is None:
            raise ValueError(
                "this processor belongs to one generate() and reads every step: make a new one with head.processor()"
            )
        if len(tokens) == len(input_ids) and torch.equal(tokens, input_ids[:, :-1]):
            return log_alive
        if self.prompt_length == 0:
            raise ValueError("beams from inputs_embeds have no tokens to be told apart by: use monotonic=False")
        # beams changed places; behind the same prompt equal tokens have equal survivals
        is_same = (input_ids[:, None, :-1] == tokens[None]).all(-1)
        if not bool(is_same.any(-1).all()):
            raise ValueError("this processor saw other tokens before: make a new one for each generate()")
        return log_alive[is_same.int().argmax(-1)]


def add_self_termination(kwargs: dict[str, Any], config: PreTrainedConfig, eos_token_id: Any) -> None:
    """Put the rule of `config.self_terminating` into the arguments of `generate()`, in place, unless it is there."""
    given = list(kwargs.get("logits_processor") or [])
    if eos_token_id is None or any(isinstance(rule, SelfTerminatingLogitsProcessor) for rule in given):
        return
    ids = eos_token_id.tolist() if isinstance(eos_token_id, Tensor) else eos_token_id
    head = SelfTerminatingHead.of_config(config, ids)
    if head is not None:
        # before the caller's rules, which may keep or forbid what this one has weighted
        kwargs["logits_processor"] = LogitsProcessorList([head.processor(), *given])
