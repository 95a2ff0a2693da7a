"""Two tasks of one UniLM, as SimBERT has them: writing one text of a pair from the other, and telling pairs apart.

Source: Su, kexue.fm/archives/7427. A row is [CLS] text [SEP] other [SEP] by UniLM's mask, where a source never sees its
target: so its [CLS] is the vector of the text alone, and one pass serves both tasks. Each pair gives two rows, (a, b)
and (b, a), side by side. Shapes: B rows, L tokens, D hidden.
"""

from __future__ import annotations

import shutil
from array import array
from collections.abc import Sequence
from typing import Any, NamedTuple

from recipes.choices import check_belongs_together, choose_tokenizer, configure, set_dropout
from recipes.contrastive_data import Chosen, text_number, texts_of, tokens_of
from recipes.frame import mixture_of, read, read_one
from recipes.generation import make_seq2seq_model, title_scores
from recipes.labelled import finished_tokenizer, labelled_batch, next_token, num_labels
from recipes.two_tasks import TwoTasks

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from suzoo.data import (
    Pair,
    Ranked,
    read_pairs,
    read_queries,
    read_ranked,
    seq2seq_example,
    seq2seq_tokenizer,
    tokenize_rows,
    tokenizer_key,
    unilm_batch,
)
from suzoo.data.tokens import pieces
from suzoo.distributed import all_reduce_sum, gather, rank, world_size
from suzoo.engine import RandomBatches, RunFolder, batch_coupled_backward
from suzoo.evaluation import retrieval_metrics
from suzoo.hub.publish import publish
from suzoo.losses import contrastive_loss, cross_entropy_loss
from suzoo.models import CoSENTModel, UniLMForCausalLM
from suzoo.models._devices import to_device
from suzoo.models._stock_encoder import sharded_units


class UniLMWithVectors(nn.Module):
    """(B, D + 1), float32 at least: the [CLS] of each row, and the summed loss of its labelled tokens."""

    def __init__(self, model: UniLMForCausalLM):
        super().__init__()
        self.model = model
        self._no_split_modules = sharded_units(model, model._no_split_modules)  # Accelerate looks here

    def forward(self, labels: Tensor, places: Tensor, **inputs: Tensor) -> Tensor:
        """`labels` (B, L) stand where they are predicted, one place before the token; as in `labelled_batch`."""
        hidden_BLD = self.model.bert(**inputs, use_cache=False).last_hidden_state
        logits = self.model.cls(hidden_BLD.flatten(0, 1).index_select(0, places))
        nll = cross_entropy_loss(logits, labels.flatten().index_select(0, places), reduction="none")
        of_row = nll.new_zeros(len(labels)).index_add(0, places // labels.shape[1], nll)
        return torch.cat([hidden_BLD[:, 0].to(nll.dtype), of_row[:, None]], 1)


class SimBERT:
    """Data, model, examples and losses, in this order. The names of the losses are rewriting_loss, a mean over target
    tokens, and contrast_loss.

    Attributes:
        model, tokenizer: what will be saved. module: what Accelerate prepares.
        batches: step -> micro-batches. provenance: what run.json says of the data.
        train, dev_rows: rows as they were read.
    """

    def __init__(self, recipe: TwoTasks, accelerator: Accelerator):
        self.recipe, self.accelerator = recipe, accelerator

        # Data
        self.train, self.dev_rows, self.provenance = read_rows(recipe)
        examples, dev_examples = similar(recipe, self.train, self.dev_rows)
        self.dev = [texts_of_pair(self.dev_rows[row], place) for row, place in dev_examples.pairs()]
        mixture = mixture_of(recipe, self.train, examples.sizes(self.train.sizes))
        self.ranked: Any = None
        if recipe.ranked:
            self.ranked, self.provenance["ranked"] = read_one(recipe, read_ranked, recipe.ranked, recipe.ranked_split)

        # Model
        texts = (text for row, place in examples.pairs() for text in texts_of_pair(self.train[row], place))
        tokenizer = seq2seq_tokenizer(choose_tokenizer(recipe, texts, needs=("cls", "sep", "pad")))
        model = make_seq2seq_model(recipe, tokenizer, {}, max_new_tokens=recipe.max_length)
        if not model.config.has_stock_layers:
            raise ValueError(f"{recipe.model} has no stock layers, so that no library would open it as an encoder")
        positions = model.config.max_position_embeddings
        if 2 * recipe.max_length > positions:
            raise ValueError(f"two texts of --max-length {recipe.max_length} are more than the {positions} positions")
        self.tokenizer = finished_tokenizer(recipe, tokenizer, model)
        check_belongs_together(recipe, model, tokenizer)
        set_dropout(recipe, model)
        model.bert = configure(recipe, model.bert, tokenizer, model.get_output_embeddings())  # ty: ignore[invalid-assignment]
        self.model, self.module = model, UniLMWithVectors(model)

        # Examples: the tokens of the two texts of a pair, and a number for each
        for chosen, rows in ((examples, self.train), (dev_examples, self.dev_rows)):
            key = ["similar", recipe.max_length, tokenizer_key(self.tokenizer)]
            chosen.tokens = tokenize_rows(rows, self.encode, key=key, num_workers=recipe.num_workers)
        self.batches = RandomBatches(examples, collate=self.collate, mixture=mixture, **recipe.batch_options)
        self.dev_examples = dev_examples

    def encode(self, rows: Sequence[Pair | Ranked], first: int) -> dict[str, list[list[int]]]:
        length = self.recipe.max_length
        return tokens_of(lambda texts: [ids[:length] for ids in pieces(self.tokenizer, texts)], rows)

    def collate(self, examples) -> tuple[dict[str, Tensor], Tensor]:
        """Both directions of each pair, side by side."""
        budgets = {"max_source_tokens": self.recipe.max_length, "max_target_tokens": self.recipe.max_length}
        rows = [
            seq2seq_example(self.tokenizer, source.tolist(), target.tolist(), **budgets)
            for (a, b), _ in examples
            for source, target in ((a, b), (b, a))
        ]
        batch = unilm_batch(rows, pad_token_id=self.tokenizer.pad_token_id)
        ids = torch.tensor(np.stack([ids for _, ids in examples]))
        return {**batch, "labels": next_token(batch["labels"])}, ids

    def outputs(self, module: nn.Module, batch: tuple[dict[str, Tensor], Tensor]) -> Tensor:
        return module(**labelled_batch(batch[0], self.accelerator.device))

    def both(self, outputs: Tensor, micro_batches: list) -> dict[str, Tensor]:
        """The losses of a step from the outputs of this rank's rows; the contrast gathers those of other ranks."""
        device = outputs.device
        num_tokens = all_reduce_sum(torch.full((), sum(num_labels(batch) for batch, _ in micro_batches), device=device))
        ids = to_device(torch.cat([ids for _, ids in micro_batches]), device)
        a, b = outputs[0::2, :-1], outputs[1::2, :-1]
        contrast = contrastive_loss(a, b, scale=self.recipe.scale, negatives="all", ids=ids)
        return {
            "rewriting_loss": outputs[:, -1].sum() / num_tokens * world_size(),  # the ranks' gradients are averaged
            "contrast_loss": self.recipe.also_weight * contrast,
        }

    def losses(self, module: nn.Module, micro_batches: list) -> dict[str, Tensor]:
        """Both losses of a step that is one micro-batch."""
        return self.both(self.outputs(module, micro_batches[0]), micro_batches)

    def backward(self, module: nn.Module, micro_batches: list) -> dict[str, Tensor]:
        """Backward of the sum of both losses."""
        found: dict[str, Tensor] = {}

        def total(outputs: Tensor) -> Tensor:
            losses = self.both(outputs, micro_batches)
            found.update({name: loss.detach() for name, loss in losses.items()})
            return torch.stack(list(losses.values())).sum()

        batch_coupled_backward(
            self.accelerator, module, micro_batches, lambda batch: self.outputs(module, batch), total
        )
        return found

    @torch.no_grad()
    def evaluate(self, module: nn.Module) -> dict[str, float]:
        """Both losses of the dev pairs, their sum, and how well texts find those that say the same. The ranks share the
        pairs out."""
        found, contrast, tokens = [], *torch.zeros(2, device=self.accelerator.device)
        num_batches = max(1, len(self.dev) // self.recipe.batch_size)  # of at least a step's pairs, as the loss has it
        for rows in np.array_split(np.arange(len(self.dev)), num_batches):
            mine = np.array_split(rows, world_size())[rank()]
            parts = np.array_split(mine, min(len(mine), self.recipe.micro_batches))
            parts = [self.collate([self.dev_examples[row] for row in part]) for part in parts]
            tokens += sum(num_labels(batch) for batch, _ in parts)
            outputs = torch.cat([self.outputs(module, part) for part in parts])
            contrast += self.both(outputs, parts)["contrast_loss"] * len(mine)
            found.append(gather(outputs).cpu())
        outputs = torch.cat(found)
        losses = {
            "rewriting_loss": float(outputs[:, -1].sum()) / float(all_reduce_sum(tokens)),
            "contrast_loss": float(all_reduce_sum(contrast)) / len(self.dev),
        }
        texts = [text for pair in self.dev for text in pair]
        vector = dict(zip(texts, F.normalize(outputs[:, :-1], dim=-1).numpy(), strict=True))

        def encode(texts, normalize):
            return np.stack([vector[text] for text in texts])

        queries = [Ranked(pair.source, (pair.target,), ()) for pair in self.dev]
        return {"loss": sum(losses.values()), **losses, **retrieval_metrics(encode, queries)}

    def score(self, module: nn.Module) -> dict[str, dict[str, float]]:
        """Scores of the end, by data set; every process takes part."""
        return {"dev": self.evaluate(module)}

    def save_second(self, run: RunFolder, whole: Any, scores: dict) -> None:
        """`encoder/`: the same weights as a sentence encoder, which stock BERT and sentence-transformers open."""
        fields = whole.config.to_dict()
        config = BertConfig(
            **{name: fields[name] for name in BertConfig().to_dict() if name in fields and name != "model_type"}
        )
        config.architectures = None
        encoder = CoSENTModel(config, BertModel(config), pooling="cls")
        weights = {name.removeprefix("bert."): value for name, value in whole.state_dict().items()}
        missing = encoder.encoder.load_state_dict(weights, strict=False).missing_keys
        assert all(name.startswith("pooler.") for name in missing), missing
        encoder.tokenizer, encoder.max_seq_length = self.tokenizer, self.recipe.max_length
        self.encoder = encoder.eval()
        self.encoder.save_pretrained(run.path / "encoder")
        if self.ranked:
            scores["ranked"] = retrieval_metrics(self.encoder.encode, self.ranked)
        if self.recipe.max_scored:
            scores["generated"] = title_scores(whole, self.tokenizer, self.dev[: self.recipe.max_scored])

    def publish_second(self, run: RunFolder) -> None:
        """Card, golden outputs and check of `encoder/`; pushed beside the UniLM, as NAME-encoder."""
        folder = run.path / "encoder"
        for name in ("run.json", "metrics.json"):
            shutil.copyfile(run.path / name, folder / name)
        push_to = self.recipe.push_to and f"{self.recipe.push_to}-encoder"
        publish(self.encoder, self.tokenizer, folder, push_to)


def read_rows(recipe: TwoTasks) -> tuple[Any, Any, dict[str, dict[str, Any]]]:
    """Training and dev rows, with labels or without, and where they came from."""
    return read(recipe, read_queries if recipe.alike_from is None else read_pairs)


class Similar(NamedTuple):
    """Two texts that say the same."""

    source: str
    target: str


def texts_of_pair(row: Pair | Ranked, place: int) -> Similar:
    """The first text of a row and another one."""
    texts = texts_of(row)
    return Similar(texts[0], texts[place])


def similar(recipe: TwoTasks, *parts: Sequence[Any]) -> list[Chosen]:
    """The pairs of training and dev rows that say the same, as examples."""
    least = recipe.alike_from
    found = []
    for rows, name in zip(parts, (recipe.data_name, recipe.dev or f"the dev split of {recipe.data_name}"), strict=True):
        chosen, places, alike = array("I"), array("I"), array("q")
        for number, row in enumerate(rows):
            others = range(1, 2 if row.label >= least else 1) if least is not None else range(1, 1 + len(row.positives))
            texts = texts_of(row)
            for place in others:
                chosen.append(number)
                places.extend((0, place))
                alike.extend((text_number(texts[0]), text_number(texts[place])))
        if len(chosen) < world_size():
            which = "" if least is None else f" of a label from {least}: lower --alike-from, or give others"
            raise ValueError(f"{name} has {len(chosen)} pairs{which}")
        found.append(Chosen(np.asarray(chosen), np.asarray(places).reshape(-1, 2), np.asarray(alike).reshape(-1, 2)))
    return found
