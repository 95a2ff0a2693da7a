"""What the scripts of DialoGPT, UniLM and T-TA share: their batches, the module they train, its dev loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from recipes.frame import mixture_of, read
from recipes.language_model import CausalTraining, LanguageModelTraining
from recipes.settings import flag

import torch
from tokenizers import models
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from suzoo.data import STREAMED, Examples, Stream, describe, token_budget_batches, tokenize_rows, without_inner_spaces
from suzoo.distributed import all_reduce_sum, rank, together, world_size
from suzoo.engine import RunFolder, StreamBatches, TokenBatches
from suzoo.losses import chunked_loss, cross_entropy_loss
from suzoo.models import SelfTerminatingHead
from suzoo.models._devices import batch_to_device
from suzoo.models._stock_encoder import sharded_units

IGNORED = -100


def read_or_stream(
    recipe: LanguageModelTraining, reader: Callable[..., Any]
) -> tuple[Any, Any, dict[str, dict[str, Any]]]:
    """What `frame.read` returns; with --stream a `Stream` in place of the training rows. Dev rows are kept, also those
    of a stream."""
    if not recipe.stream:
        return read(recipe, reader)
    options: dict[str, Any] = {"columns": recipe.columns, "skip_bad_rows": recipe.skip_bad_rows, "seed": recipe.seed}
    limits: dict[str, Any] = {"weights": recipe.data_weights, "num_head": recipe.shuffle_buffer}
    split, kind = recipe.split or "train", STREAMED[reader]
    train = together(lambda: Stream(recipe.data, kind, split=split, **options, **limits))
    source, dev_split = recipe.dev_data
    sources = [source] if isinstance(source, str) else source
    dev = together(lambda: Stream(sources, kind, split=dev_split, **options).once(recipe.max_dev_samples))
    trained = describe(recipe.data, split, train.part(0, 1).head(1000))
    trained |= {"rows": "stream", "sha256": None, "content": train.content()}
    if recipe.data_weights:
        trained["weights"] = list(recipe.data_weights)
    return train, dev, {"train": trained, "dev": describe(source, dev_split, dev)}


def token_batches(
    recipe: LanguageModelTraining,
    run: RunFolder,
    train: Any,
    encode: Callable[..., Any],
    key: list[Any],
    collate: Callable,
    *,
    draws: bool = False,
) -> TokenBatches | StreamBatches:
    """Steps of `micro_batches` micro-batches of examples of like length, for as many ranks as the run began with.

    Args:
        train: rows or stream of `read_or_stream`.
        encode, key: see `tokenize_rows`.
        collate, draws: see `TokenBatches`.
    """

    def of_stream(rows: list[Any], first: int) -> Examples:
        return tokenize_rows(rows, lambda part, begin: encode(part, first + begin), key=key)

    options: dict[str, Any] = {
        "max_tokens": recipe.micro_batch_tokens,
        "collate": collate,
        "seed": recipe.seed,
        "num_micro_batches": recipe.micro_batches,
        "num_ranks": run.processes_then,
        "blank": lambda batch: {**batch, "labels": torch.full_like(batch["labels"], IGNORED)},
        "draws": draws,
    }
    if isinstance(train, Stream):
        return StreamBatches(train.part, of_stream, window=recipe.shuffle_buffer, **options)
    examples = tokenize_rows(train, encode, key=key, num_workers=recipe.num_workers)
    return TokenBatches(examples, examples.lengths(), mixture=mixture_of(recipe, train), **options)


def dev_batches(recipe: LanguageModelTraining, examples: Examples, collate: Callable) -> list[Any]:
    """Batches of like length that together hold every example once."""
    groups = token_budget_batches(examples.lengths(), recipe.micro_batch_tokens)
    return [collate([examples[row] for row in rows]) for rows in groups]


def choose_head(recipe: CausalTraining, model: Any, eos_token_id: int) -> SelfTerminatingHead | None:
    """The rule of --self-terminating, noted in the model's configuration."""
    if recipe.self_terminating == "off":
        model.config.self_terminating = None
    elif recipe.self_terminating is not None:
        monotonic = recipe.self_terminating == "monotonic"
        SelfTerminatingHead(eos_token_id, recipe.epsilon, monotonic).write(model.config)
    head = SelfTerminatingHead.of_config(model.config, eos_token_id)
    used = [name for name in ("label_smoothing", "chunk_size", "tailr", "rdrop") if getattr(recipe, name, 0)]
    if head is not None and used:
        raise ValueError(f"--self-terminating has a loss of its own: no {flag(used[0])}")
    return head


class LabelledLoss(nn.Module):
    """A language model and the summed loss of its labelled tokens, as the one module that Accelerate prepares.

    Where the model has BERT's parts, the head, its largest product, computes the labelled tokens only.

    Args:
        model: one with `bert` and `cls`, or any language model that returns `logits`.
        loss: (logits, labels, reduction="sum") -> scalar; in eval mode it is plain cross-entropy, so that dev losses
            of different runs compare.
        chunk_size: tokens whose logits exist at once; 0 is all.
        head: its likelihood takes the place of `loss` and of cross-entropy.
    """

    def __init__(
        self,
        model: Any,
        loss: Callable[..., Tensor] = cross_entropy_loss,
        chunk_size: int = 0,
        head: SelfTerminatingHead | None = None,
    ):
        super().__init__()
        self.head = head
        self.model, self.loss, self.chunk_size = model, loss, chunk_size
        self._no_split_modules = sharded_units(model, model._no_split_modules)  # Accelerate looks here
        self.has_berts_parts = hasattr(model, "bert") and hasattr(model, "cls")
        if chunk_size and not self.has_berts_parts:
            raise ValueError(f"--chunk-size needs a model with BERT's head, not {type(model).__name__}")

    def forward(self, labels: Tensor, places: Tensor, **inputs: Any) -> Tensor:
        """Scalar. `labels` (B, L) stand where they are predicted: for causal models one place before the token. As
        `labelled_batch` has them; a model keeps no cache for tokens that nobody writes."""
        loss = self.loss if self.training else cross_entropy_loss
        if self.has_berts_parts and self.chunk_size:
            hidden = self.model.bert(**inputs, use_cache=False)[0]
            options: dict[str, Any] = {"chunk_size": self.chunk_size, "num_items": 1, "places": places}
            return chunked_loss(loss, self.model.cls, hidden, labels, **options)

        def labelled(values_BL: Tensor) -> Tensor:
            return values_BL.flatten(0, 1).index_select(0, places)

        if self.has_berts_parts:
            logits = self.model.cls(labelled(self.model.bert(**inputs, use_cache=False)[0]))
        else:
            logits = labelled(self.model(**inputs, use_cache=False).logits)
        if self.head is not None:
            return self.head.nll_sum(logits, labelled(labels), labelled(self.head.starts(labels)))
        return loss(logits, labelled(labels), reduction="sum")


def labelled_batch(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """A batch with labels (B, L) on `device`, and `places`, where there are labels among the B * L tokens: looked up
    here, because an accelerator would be waited for."""
    batch = {**batch, "places": (batch["labels"].flatten() != IGNORED).nonzero()[:, 0]}
    return batch_to_device(batch, device)


def next_token(labels: Tensor) -> Tensor:
    """Labels (B, L) moved to where a causal model predicts them: one place to the left."""
    return nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED)


def num_labels(batch: dict[str, Tensor]) -> int:
    return int((batch["labels"] != IGNORED).sum())


@torch.no_grad()
def dev_loss(module: nn.Module, batches: Sequence[dict[str, Tensor]], device: torch.device) -> dict[str, float]:
    """`loss` (nats per labelled token) and `perplexity`; the batches are shared out over the ranks.

    `module` is in eval mode. Every rank calls it as often as the others: where batches run out, on one without labels.
    """
    mine = list(batches[rank() :: world_size()])
    if len(mine) < math.ceil(len(batches) / world_size()):
        mine.append({**batches[0], "labels": torch.full_like(batches[0]["labels"], IGNORED)})
    total = torch.zeros(2, dtype=torch.float32, device=device)
    for batch in mine:
        count = num_labels(batch)
        total[0] += module(**labelled_batch(batch, device)).float()
        total[1] += count
    loss_sum, count = all_reduce_sum(total).tolist()
    return {"loss": loss_sum / count, "perplexity": math.exp(min(700.0, loss_sum / count))}


def finished_tokenizer(recipe: Any, tokenizer: PreTrainedTokenizerBase, model: Any) -> PreTrainedTokenizerBase:
    """The tokenizer to save: it cuts where --model's does, behind --max-length, and at the model's positions. WordPiece
    writes Chinese without inner spaces."""
    length = max(tokenizer.model_max_length, recipe.max_length)  # encoders of short sentences cut early
    positions = getattr(model.config, "max_position_embeddings", None)
    tokenizer.model_max_length = min(length, positions or length)
    is_wordpiece = tokenizer.is_fast and isinstance(tokenizer.backend_tokenizer.model, models.WordPiece)
    return without_inner_spaces(tokenizer) if is_wordpiece else tokenizer
