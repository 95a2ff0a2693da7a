"""A causal language model that learns in ten seconds on one core: what the optimizer experiments share."""

from __future__ import annotations

import gzip
import json
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertLMHeadModel, PreTrainedTokenizerBase

from suzoo.data import train_wordpiece
from suzoo.optimizers import get_schedule

LENGTH = 32


def read_lines(path: str, max_lines: int = 12000) -> list[str]:
    """The first lines of a text file, one text per line."""
    with gzip.open(path, "rt") if path.endswith(".gz") else open(path) as file:
        return [line.strip() for line, _ in zip(file, range(max_lines), strict=False)]


def split_blocks(tokenizer: PreTrainedTokenizerBase, lines: list[str], length: int = LENGTH) -> tuple[Tensor, Tensor]:
    """Blocks (N, length) of token ids, end to end: to train on, and of the last twentieth 128 for dev."""
    stream = [token for ids in tokenizer(lines, add_special_tokens=False)["input_ids"] for token in ids]
    blocks = torch.tensor(stream[: len(stream) // length * length]).view(-1, length)
    num_dev = max(32, len(blocks) // 20)
    return blocks[:-num_dev], blocks[-num_dev:][:128]


def read_blocks(path: str, *, vocab_size: int = 1000, length: int = LENGTH) -> tuple[Tensor, Tensor]:
    """`split_blocks` of a file, with a vocabulary learnt from it."""
    lines = read_lines(path)
    return split_blocks(train_wordpiece(lines, vocab_size=vocab_size), lines, length)


def small_model(vocab_size: int, seed: int, hidden_size: int = 96, length: int = LENGTH) -> BertLMHeadModel:
    torch.manual_seed(seed)
    return BertLMHeadModel(
        BertConfig(
            vocab_size=vocab_size, hidden_size=hidden_size, num_hidden_layers=2, num_attention_heads=4,
            intermediate_size=4 * hidden_size, max_position_embeddings=length, is_decoder=True,
            hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        )
    )  # fmt: skip


@torch.no_grad()
def dev_loss(model: nn.Module, dev: Tensor) -> float:
    model.eval()
    loss = float(model(input_ids=dev, labels=dev).loss)
    model.train()
    return loss


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    blocks: Tensor,
    dev: Tensor,
    *,
    num_updates: int,
    batch_size: int,
    micro_steps: int = 1,
    seed: int,
    every: int,
    warmup: float = 0.1,
) -> dict:
    """Curves of the dev loss over updates and over CPU seconds of the training alone (one thread: its work).

    Every update has `batch_size` blocks in `micro_steps` parts, with one `optimizer.step()` each; the rate warms up for
    `warmup` of them and falls linearly to 0.
    """
    schedule = get_schedule("linear", optimizer, num_steps=num_updates, warmup=warmup)
    draw = np.random.default_rng(seed)
    curve = {"updates": [0], "seconds": [0.0], "loss": [dev_loss(model, dev)]}
    seconds = 0.0
    for update in range(1, num_updates + 1):
        rows = torch.from_numpy(draw.integers(len(blocks), size=batch_size))
        start = time.process_time()
        for part in rows.chunk(micro_steps):
            batch = blocks[part]
            model(input_ids=batch, labels=batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        schedule.step()
        seconds += time.process_time() - start
        if update % every == 0 or update == num_updates:
            curve["updates"].append(update)
            curve["seconds"].append(seconds)
            curve["loss"].append(dev_loss(model, dev))
    return curve


def spread(values: Iterable[float]) -> str:
    values = list(values)
    return f"{statistics.mean(values):.4f} ± {statistics.stdev(values):.4f}" if len(values) > 1 else f"{values[0]:.4f}"


class Results:
    """Runs by name, kept in a JSON file, so that an interrupted experiment goes on where it was."""

    def __init__(self, path: str):
        self.path = Path(path)
        self.runs: dict[str, dict] = json.loads(self.path.read_text()) if self.path.exists() else {}

    def run(self, name: str, work: Callable[[], dict]) -> dict:
        if name not in self.runs:
            self.runs[name] = work()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps(self.runs))
            print(f"{name}: {self.runs[name]['loss'][-1]:.4f} after {self.runs[name]['seconds'][-1]:.0f} s", flush=True)
        return self.runs[name]
