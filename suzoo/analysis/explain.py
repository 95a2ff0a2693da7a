"""Which tokens made a model say what it said: integrated gradients for every kind of model that suzoo trains.

Source: kexue.fm/archives/7533. The score is a function of the word embeddings; positions and segments stay as they are,
and so do the special tokens, whose attribution is 0 by that.

Shapes: N rows, L tokens, D hidden, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from suzoo.analysis.integrated_gradients import integrated_gradients
from suzoo.models._stock_encoder import num_positions

Baseline = Literal["zero", "mean", "pad", "mask"]
KINDS = ("classification", "similarity", "next token", "masked token")


@dataclass(frozen=True)
class Explanation:
    """Tokens and what each adds to the score. Printed, it is a table.

    Attributes:
        tokens: as the tokenizer writes them, special ones included; of a pair one text after the other.
        values: one per token; their sum is score - baseline_score, up to `error`.
        score: of the text. baseline_score: of the text without its words.
        error: how far the sum misses it.
        target: what the score is.
        num_first: tokens of the first text of a pair; else all.
    """

    tokens: list[str]
    values: list[float]
    score: float
    baseline_score: float
    error: float
    target: str
    num_first: int

    def __str__(self) -> str:
        width = max(map(len, self.tokens))
        lines = [f"{self.target}: {self.score:.4f}, without the words {self.baseline_score:.4f}"]
        lines += [f"{token:{width}}  {value:+.4f}" for token, value in zip(self.tokens, self.values, strict=True)]
        total = self.score - self.baseline_score
        lines.append(f"sum {sum(self.values):+.4f}, of {total:+.4f} (completeness error {self.error:+.1e})")
        return "\n".join(lines)


def kind_of(model: nn.Module) -> str:
    """What a model's score is about: one of `KINDS`.

    Raises:
        ValueError: it has none of these heads (an encoder is what has `encode`).
    """
    name = type(model).__name__
    if name.endswith(("ForSequenceClassification", "CrossEncoder")):
        return "classification"
    if name.endswith(("ForCausalLM", "LMHeadModel")):
        return "next token"
    if name.endswith("ForMaskedLM"):
        return "masked token"
    if hasattr(model, "encode"):
        return "similarity"
    raise ValueError(
        f"{name} has no score to explain: give a classifier, an encoder with `encode`, or a language model"
    )


def explain(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    text_pair: str | None = None,
    *,
    target: str | int | None = None,
    position: int | None = None,
    probability: bool = False,
    baseline: Baseline = "zero",
    num_steps: int = 50,
    batch_size: int = 16,
) -> Explanation:
    """Attribute a model's score to the tokens of a text.

    The score is, by the model's kind:

    - a classifier's or cross-encoder's logit of `target` (default the likeliest class; the only one of a regression);
    - the cosine of two texts' vectors, for sentence encoders;
    - a language model's logit of the token behind the text, `target` or the likeliest one;
    - a masked language model's logit of `target` (default the token that stands there) at `position`; T-TA reads the
      text as it is, others with [MASK] there.

    Args:
        model: in evaluation mode; `CoSENTModel`, a cross-encoder, a classifier, a causal or a masked language model.
        tokenizer: of the model.
        text: what to explain. text_pair: the second text, where the model reads two.
        target: a class or a token, by name or id.
        position: of the token, counting those of `text` from 0, special tokens not among them.
        probability: explain the probability instead of the logit; the sums differ.
        baseline: the word embeddings that stand for "no word": zero (the article's), mean of the embedding table, or
            the embedding of [PAD] or [MASK].
        num_steps: points of the integral; while the sum misses by more than 1e-4 (of the change, if that is above 1),
            twice as many, up to eight times.
        batch_size: points computed at once.

    Raises:
        ValueError: captum is not installed; the text has no tokens, or more than the model has positions; arguments do
            not fit the model's kind; the target is unknown.
    """
    kind = kind_of(model)
    if (kind == "similarity") != (text_pair is not None) and kind != "classification":
        raise ValueError(f"a model of the kind {kind!r} reads {'two texts' if kind == 'similarity' else 'one text'}")
    if (kind == "masked token") != (position is not None):
        raise ValueError("position= goes with masked language models: which token of the text is to be explained")
    if kind == "similarity" and (target is not None or probability):
        raise ValueError("a similarity has no target and no probability: leave both out")
    reads = inspect.signature(model.forward).parameters
    if kind == "similarity":
        encodings = [_encode(tokenizer, reads, part, None) for part in (text, str(text_pair))]
    else:
        encodings = [_encode(tokenizer, reads, text, text_pair)]
    ids = [encoding["input_ids"].to(model.device) for encoding in encodings]
    length, limit = max(row.shape[1] for row in ids), num_positions(model.config)
    is_absolute = getattr(model.config, "position_embedding_type", "absolute") == "absolute"
    if is_absolute and limit is not None and length > limit:
        raise ValueError(f"the text has {length} tokens and the model has positions for {limit}: explain a part of it")
    keep = [encoding.pop("special_tokens_mask").bool().to(model.device) for encoding in encodings]
    place, truth = None, None
    if position is not None:
        words = (~keep[0][0]).nonzero()[:, 0].tolist()
        if not 0 <= position < len(words):
            raise ValueError(f"position {position} is outside the {len(words)} tokens of the text")
        place = words[position]
        truth = int(ids[0][0, place])
        keep[0][0, place] = True
        if getattr(model.config, "model_type", None) != "tta":
            ids[0][0, place] = _special_id(tokenizer, "mask")
    table = model.get_input_embeddings()
    with torch.no_grad():
        embeddings = [table(row) for row in ids]
        empty_D = _empty(table, tokenizer, baseline)
    starts = [torch.where(kept[..., None], full, empty_D) for kept, full in zip(keep, embeddings, strict=True)]

    def forward(number: int, embeds_NLD: Tensor) -> Any:
        num_rows = len(embeds_NLD)
        inputs = {name: row.to(model.device).expand(num_rows, -1) for name, row in encodings[number].items()}
        inputs["input_ids"] = ids[number].expand(num_rows, -1)
        with _replaced(table, inputs["input_ids"], embeds_NLD):
            return model(**inputs)

    if kind == "similarity":

        def score(*embeds: Tensor) -> Tensor:
            first, second = (forward(number, part).sentence_embedding for number, part in enumerate(embeds))
            return nn.functional.cosine_similarity(first, second, dim=-1)

        name = "cosine similarity"
    else:
        logits_NV, select = _logits(kind, forward, place), _target(kind, model, tokenizer, target, truth)
        with torch.no_grad():
            chosen, name = select(logits_NV(embeddings[0])[0])
        is_binary = kind == "classification" and _is_multi_label(model)

        def score(*embeds: Tensor) -> Tensor:
            logits = logits_NV(embeds[0])
            if probability:
                logits = logits.sigmoid() if is_binary else logits.softmax(-1)
            return logits[:, chosen]

        name = f"{'probability' if probability else 'logit'} of {name}"
    for factor in (1, 2, 4, 8):
        found = integrated_gradients(score, embeddings, starts, num_steps=factor * num_steps, batch_size=batch_size)
        if abs(float(found.error)) <= 1e-4 * max(1.0, abs(float(found.score - found.baseline_score))):
            break
    tokens = [tokenizer.convert_ids_to_tokens(row[0].tolist()) for row in ids]
    return Explanation(
        tokens=[token for part in tokens for token in part],
        values=[value for part in found.values for value in part[0].double().sum(-1).tolist()],
        score=float(found.score),
        baseline_score=float(found.baseline_score),
        error=float(found.error),
        target=name,
        num_first=len(tokens[0]),
    )


def _encode(tokenizer: PreTrainedTokenizerBase, reads: Any, text: str, text_pair: str | None) -> dict[str, Tensor]:
    """What the model reads of the tokenizer's output, (1, L) each, and `special_tokens_mask`."""
    encoding = tokenizer(text, text_pair, return_special_tokens_mask=True, return_tensors="pt")
    if bool(encoding["special_tokens_mask"].all()):
        raise ValueError(f"{text!r} has no tokens to explain: give a text that the tokenizer knows something of")
    return {name: row for name, row in encoding.items() if name in reads or name == "special_tokens_mask"}


def _special_id(tokenizer: PreTrainedTokenizerBase, name: Literal["pad", "mask"]) -> int:
    number = getattr(tokenizer, f"{name}_token_id")
    if number is None:
        raise ValueError(f"the tokenizer has no [{name.upper()}]: choose another baseline")
    return number


def _empty(table: nn.Module, tokenizer: PreTrainedTokenizerBase, baseline: Baseline) -> Tensor:
    """(D,) the embedding that stands for no word."""
    weight: Any = table.weight
    if baseline == "zero":
        return torch.zeros_like(weight[0])
    if baseline == "mean":
        return weight.mean(0)
    if baseline in ("pad", "mask"):
        return weight[_special_id(tokenizer, baseline)]
    raise ValueError(f"baseline is zero, mean, pad or mask, not {baseline!r}")


def _logits(kind: str, forward: Callable[[int, Tensor], Any], place: int | None) -> Callable[[Tensor], Tensor]:
    """(N, C or V) of the classes or of the tokens at one place."""
    if kind == "classification":
        return lambda embeds: forward(0, embeds).logits
    return lambda embeds: forward(0, embeds).logits[:, -1 if place is None else place]


def _is_multi_label(model: Any) -> bool:
    return model.config.num_labels == 1 or model.config.problem_type == "multi_label_classification"


def _target(
    kind: str, model: Any, tokenizer: PreTrainedTokenizerBase, target: str | int | None, truth: int | None
) -> Callable[[Tensor], tuple[int, str]]:
    """From the logits (V,) to the chosen one and its name."""
    if kind == "classification":
        names = {int(number): name for number, name in model.config.id2label.items()}
    else:
        names = {number: token for token, number in tokenizer.get_vocab().items()}

    def select(logits_V: Tensor) -> tuple[int, str]:
        if target is None:
            number = int(logits_V.argmax()) if truth is None else truth
        elif isinstance(target, int):
            number = target
        else:
            known = [number for number, name in names.items() if name == target]
            number = known[0] if known else int(target) if target.isdecimal() else -1
        if not 0 <= number < len(logits_V):
            some = f"; it has {', '.join(names.values())}" if kind == "classification" else ""
            raise ValueError(f"the model has no {'class' if kind == 'classification' else 'token'} {target!r}{some}")
        return number, names.get(number, str(number))

    return select


@contextmanager
def _replaced(table: nn.Module, ids_NL: Tensor, embeds_NLD: Tensor) -> Generator[None]:
    """Inside, the embedding layer gives `embeds` for these ids. T-TA also asks it for [MASK], which stays."""
    used = []

    def replace(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if arguments[0].shape != ids_NL.shape or not torch.equal(arguments[0], ids_NL):
            return output
        used.append(True)
        return embeds_NLD

    hook = table.register_forward_hook(replace)
    try:
        yield
    finally:
        hook.remove()
    if not used:
        raise ValueError("the model does not read the tokens through get_input_embeddings(): it cannot be explained")
