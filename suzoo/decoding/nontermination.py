"""Does a model's decoding end? How often it does not, how much it repeats itself, and what is guaranteed.

Source: kexue.fm/archives/7500 and arXiv 2002.02492: where the hidden states in front of the output layer are bounded,
the end has a probability of at least some epsilon in every step. A last LayerNorm (or RMSNorm) bounds them.

Shapes: N rows, L tokens, V vocabulary, D hidden.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel, PreTrainedTokenizerBase

from suzoo.models._self_terminating import SelfTerminatingHead, add_self_termination


@dataclass(frozen=True)
class NonterminationReport:
    """What `nontermination_report` found. Printed, it says it in sentences.

    Attributes:
        num_prompts: continuations that were written.
        max_new_tokens: where they were cut.
        rate: share of them without an end.
        mean_length: their tokens, the end among them.
        repetition: mean share of a continuation's 4-grams that it had said before (0 if it is shorter).
        min_eos_probability: the smallest probability of the end in any step, before temperature, top-k and top-p.
        log_eos_bound: natural logarithm of the probability that the model's weights guarantee the end in every step;
            None where no norm bounds what the output layer reads.
        head: the self-terminating rule that was at work.
        continuations: their token ids, without padding.
    """

    num_prompts: int
    max_new_tokens: int
    rate: float
    mean_length: float
    repetition: float
    min_eos_probability: float
    log_eos_bound: float | None
    head: SelfTerminatingHead | None
    continuations: list[list[int]]

    def __str__(self) -> str:
        lines = [
            f"{self.num_prompts} continuations of at most {self.max_new_tokens} tokens: {self.rate:.1%} did not end, "
            f"mean length {self.mean_length:.1f}, {self.repetition:.1%} of the 4-grams repeated",
            f"smallest probability of the end in a step: {self.min_eos_probability:.2e}",
        ]
        if self.head is not None:
            lines.append(
                f"self-terminating, epsilon {self.head.epsilon:g}: greedy search ends within "
                f"{self.head.max_greedy_steps} tokens"
            )
        elif self.log_eos_bound is None:
            lines.append("no bound: nothing normalizes what the output layer reads")
        else:
            # log of (1 - epsilon)^T, for an epsilon that may be too small for a float
            log_longer = -self.max_new_tokens * math.exp(self.log_eos_bound)
            lines.append(
                f"the article's bound: the weights give the end at least 10^{self.log_eos_bound / math.log(10):.1f} in "
                f"every step, so sampling that keeps the end is longer than {self.max_new_tokens} tokens with "
                f"probability at most {math.exp(log_longer):.6g}"
            )
        return "\n".join(lines)


class _EosProbability(LogitsProcessor):
    """Keeps the smallest probability of the end of the rows that have not ended."""

    def __init__(self, eos_ids: list[int], prompt_length: int) -> None:
        self.eos_ids, self.prompt_length, self.smallest = eos_ids, prompt_length, 1.0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        eos = torch.tensor(self.eos_ids, device=scores.device)
        going_N = ~torch.isin(input_ids[:, self.prompt_length :], eos).any(-1)
        end_N = scores.float().softmax(-1)[:, eos].sum(-1)
        if bool(going_N.any()):
            self.smallest = min(self.smallest, float(end_N[going_N].min()))
        return scores


@torch.no_grad()
def nontermination_report(
    model: PreTrainedModel,
    prompts: Sequence[str] | Sequence[Sequence[int]],
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    max_new_tokens: int = 500,
    batch_size: int = 16,
    **generation: Any,
) -> NonterminationReport:
    """Continue every prompt and say how often and how soon the text ends.

    Args:
        model: any causal language model, in evaluation mode.
        prompts: N texts, read by `tokenizer` with its defaults, or N lists of token ids.
        tokenizer: for texts.
        max_new_tokens: a continuation of this length without an end counts as not ending.
        batch_size: prompts at once.
        generation: how to decode, as for `generate`: `do_sample`, `top_k`, `num_beams`, `logits_processor` …; a rule in
            `model.config.self_terminating` is at work whatever the model's class.

    Raises:
        ValueError: no prompt, an empty one, texts without a tokenizer, or a model without an end.
    """
    if isinstance(prompts, str) or not prompts:
        raise ValueError("prompts is a list of texts or of lists of token ids, with one at least")
    rows = [_token_ids(prompt, tokenizer) for prompt in prompts]
    if not all(rows):
        raise ValueError(f"prompt {next(i for i, row in enumerate(rows) if not row)} has no tokens")
    eos_token_id = generation.pop("eos_token_id", getattr(model.generation_config, "eos_token_id", None))
    if eos_token_id is None:
        raise ValueError("neither generation_config nor eos_token_id= says which token ends a text")
    eos_ids = [eos_token_id] if isinstance(eos_token_id, int) else list(eos_token_id)
    given = list(generation.pop("logits_processor", None) or [])
    continuations, smallest = [], 1.0
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        length = max(map(len, batch))
        pads = [[eos_ids[0]] * (length - len(row)) for row in batch]
        ids_NL = torch.tensor([pad + row for pad, row in zip(pads, batch, strict=True)], device=model.device)
        mask_NL = torch.tensor([[0] * len(pad) + [1] * (length - len(pad)) for pad in pads], device=model.device)
        options: dict[str, Any] = {"logits_processor": given}
        add_self_termination(options, model.config, eos_ids)
        watch = _EosProbability(eos_ids, length)
        # behind the model's own rule, before what samples
        rules = [*options["logits_processor"][: len(options["logits_processor"]) - len(given)], watch, *given]
        output: Any = model.generate(  # ty: ignore[not-callable]  (a model with GenerationMixin)
            ids_NL,
            attention_mask=mask_NL,
            max_new_tokens=max_new_tokens,
            eos_token_id=eos_ids,
            pad_token_id=eos_ids[0],
            logits_processor=LogitsProcessorList(rules),
            **generation,
        )
        smallest = min(smallest, watch.smallest)
        for row in output[:, length:].tolist():
            ends = [place for place, token in enumerate(row) if token in eos_ids]
            continuations.append(row[: ends[0] + 1] if ends else row)
    unended = [row for row in continuations if row[-1] not in eos_ids]
    return NonterminationReport(
        num_prompts=len(rows),
        max_new_tokens=max_new_tokens,
        rate=len(unended) / len(continuations),
        mean_length=sum(map(len, continuations)) / len(continuations),
        repetition=sum(map(repeated_share, continuations)) / len(continuations),
        min_eos_probability=smallest,
        log_eos_bound=log_eos_bound(model, eos_ids),
        head=SelfTerminatingHead.of_config(model.config, eos_ids),
        continuations=continuations,
    )


def _token_ids(prompt: str | Sequence[int], tokenizer: PreTrainedTokenizerBase | None) -> list[int]:
    if not isinstance(prompt, str):
        return list(prompt)
    if tokenizer is None:
        raise ValueError("prompts are texts: pass tokenizer=")
    return tokenizer(prompt)["input_ids"]


def repeated_share(tokens: Sequence[int], n: int = 4) -> float:
    """Share of the n-grams that stood before in the same text; 0 for a text without n-grams."""
    grams = [tuple(tokens[place : place + n]) for place in range(len(tokens) - n + 1)]
    return 1.0 - len(set(grams)) / len(grams) if grams else 0.0


@torch.no_grad()
def log_eos_bound(model: PreTrainedModel, eos_token_id: int | Sequence[int]) -> float | None:
    """Natural logarithm of a probability that the end never falls below, whatever the model reads.

    With h = gamma u + beta and |u| <= sqrt(D), as LayerNorm and RMSNorm have it, the logit of token i leads that of the
    end by at most sqrt(D) |gamma (w_i - w_end)| + beta (w_i - w_end) + b_i - b_end.

    Returns:
        None where the logits are not an affine layer's of the output of such a norm.
    """
    head: Any = model.get_output_embeddings()
    norm = None if head is None else _norm_before(model, head)
    if norm is None:
        return None
    weight_VD = head.weight.double()
    # from its values, because some RMSNorms multiply by 1 + weight; large, so that the norm's eps does not count
    signs_D = 1e3 * (1 - 2 * (torch.arange(weight_VD.shape[1]) % 2)).to(head.weight)
    plus_D, minus_D = norm(signs_D).double(), norm(-signs_D).double()
    gamma_D, beta_D = (plus_D - minus_D) / 2, (plus_D + minus_D) / 2
    bias_V = weight_VD.new_zeros(len(weight_VD)) if head.bias is None else head.bias.double()
    bounds = []
    for end in [eos_token_id] if isinstance(eos_token_id, int) else eos_token_id:
        lead_VD = weight_VD - weight_VD[end]
        reach_V = math.sqrt(len(gamma_D)) * (lead_VD * gamma_D).norm(dim=-1) + lead_VD @ beta_D
        bounds.append(-float((reach_V + bias_V - bias_V[end]).logsumexp(0)))
    return max(bounds)


def _norm_before(model: PreTrainedModel, head: nn.Module) -> nn.Module | None:
    """The norm whose output the output layer reads, found by running one token through the model."""
    # the tensors are kept, so that no two of them have had the same memory
    normed: list[tuple[nn.Module, Tensor]] = []
    read: list[Tensor] = []
    names = ("layernorm", "rmsnorm")
    norms = [module for module in model.modules() if type(module).__name__.lower().endswith(names)]
    hooks = [norm.register_forward_hook(lambda norm, _, output: normed.append((norm, output))) for norm in norms]
    hooks.append(head.register_forward_hook(lambda _, given, output: read.extend([given[0], output])))
    try:
        logits = model(torch.zeros(1, 1, dtype=torch.long, device=model.device), use_cache=False).logits
    finally:
        for hook in hooks:
            hook.remove()
    if not read or not torch.equal(read[1].flatten(), logits.flatten()):
        return None  # what is done to the logits behind the layer, such as capping, is not in the bound
    memory = read[0].untyped_storage().data_ptr()
    return next((norm for norm, output in normed if output.untyped_storage().data_ptr() == memory), None)
