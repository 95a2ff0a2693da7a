"""FlatNCE against InfoNCE in small batches, with the control that computes InfoNCE without rounding.

Claim (arXiv 2107.01152, kexue.fm/archives/8586): contrastive learning in small batches suffers from rounding, because
the loss is near 0 where positives are easy; FlatNCE, whose gradient does not fade, repairs that. If it were rounding,
InfoNCE computed as softplus(logsumexp of the negatives - positive), exact at every distance, would repair it too.

    python reproductions/flat_nce.py --data simclue_rank.tsv --precisions fp32 bf16

Here: (query, positive) rows, in-batch negatives, scale 20, two layers of 128 from scratch on as many rows for either
batch size; then queries that were kept aside look for their positive among all texts that were kept aside.

Verdict: does not hold: in batches of 8 all three are equal (MRR@10 .890 ± .006), in batches of 64 FlatNCE is below both
forms of InfoNCE (.861 ± .008 against .874 ± .006), which never differ. In bf16, on half as many rows, as well: .862 ±
.012 and .856 ± .006 in batches of 8, .781 ± .005 and .811 ± .004 in batches of 64. In batches of 256 (10 steps in all)
.767 ± .003 and .768 ± .003. Table in training/LOG.md.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
import tyro
from _runs import spread
from transformers import BertConfig

from suzoo.data import flat_batch, read_ranked, train_wordpiece
from suzoo.engine import RandomBatches
from suzoo.evaluation import retrieval_metrics
from suzoo.losses import contrastive_logits, flat_nce_loss
from suzoo.models import CoSENTModel
from suzoo.optimizers import get_schedule, param_groups

LOSSES = {
    "InfoNCE": F.cross_entropy,
    "InfoNCE as softplus": partial(flat_nce_loss, form="softplus"),
    "FlatNCE": partial(flat_nce_loss, form="log"),
}


@dataclass
class Options:
    data: Path
    """Rows of query, positive and negative."""
    num_queries: int = 300
    """Queries kept aside."""
    num_rows: int = 2400
    """Rows to train on."""
    batch_sizes: tuple[int, ...] = (8, 64)
    precisions: tuple[Literal["fp32", "bf16"], ...] = ("fp32",)
    """bf16: products and logits under autocast."""
    lr: float = 5e-4
    scale: float = 20.0
    seeds: tuple[int, ...] = (0, 1, 2)


def train(
    rows: list[tuple[str, str]], tokenizer, loss, batch_size: int, precision: str, seed: int, options: Options
) -> CoSENTModel:
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=512,
        max_position_embeddings=64,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = CoSENTModel(config, pooling="mean")
    model.tokenizer, model.max_seq_length = tokenizer, 32
    ids = [tokenizer(list(row), truncation=True, max_length=32)["input_ids"] for row in rows]
    batches = RandomBatches(
        ids, batch_size=batch_size, collate=lambda examples: flat_batch([t for row in examples for t in row]), seed=seed
    )
    optimizer = torch.optim.AdamW(param_groups(model, weight_decay=0.01), lr=options.lr)
    schedule = get_schedule("linear", optimizer, num_steps=batches.steps_per_epoch, warmup=0.1)
    model.train()
    for step in range(batches.steps_per_epoch):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            embeddings = model(**batches[step][0]).sentence_embedding
            logits, target = contrastive_logits(embeddings[0::2], embeddings[1::2], scale=options.scale)
            value = loss(logits, target)
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return model.eval()


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    torch.set_num_threads(1)
    queries = read_ranked(options.data)
    kept, rest = queries[: options.num_queries], queries[options.num_queries :]
    rows = [(query.query, query.positives[0]) for query in rest][: options.num_rows]
    tokenizer = train_wordpiece([text for row in rows for text in row], vocab_size=4000)
    print("| batch | precision | loss | MRR@10 | recall@1 |\n|---|---|---|---|---|", flush=True)
    for batch_size, precision, (name, loss) in product(options.batch_sizes, options.precisions, LOSSES.items()):
        results = []
        for seed in options.seeds:
            started = time.process_time()
            model = train(rows, tokenizer, loss, batch_size, precision, seed, options)
            results.append(retrieval_metrics(model.encode, kept))
            seconds = time.process_time() - started
            print(f"{name} {batch_size} {precision} {seed}: {seconds:.0f} s", file=sys.stderr, flush=True)
        cells = [spread([result[metric] for result in results]) for metric in ("mrr@10", "recall@1")]
        print(f"| {batch_size} | {precision} | {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
