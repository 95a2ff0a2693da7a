"""What can be known before the first step: rows, labels, what is cut, memory, disk, the right to push. One table.

Nothing here takes long: texts are a sample, memory and disk are estimated from the sizes of the model.
"""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from recipes.base import Training
from recipes.settings import is_on

import numpy as np
import psutil
import torch
from accelerate import Accelerator

from suzoo.data import Classified, Pair, Stream, count_duplicates, numbers, texts_of_row
from suzoo.distributed import together
from suzoo.engine import RunFolder
from suzoo.hub.push import PushError, check_rights

logger = logging.getLogger(__name__)
SAMPLE = 1000  # rows whose texts are looked at
KEPT = 4  # checkpoints that lie on the disk at once: two, the best weights, and the one that is being written


class Finding(NamedTuple):
    """A row of the table; `is_warning` where somebody should look at it."""

    about: str
    text: str
    is_warning: bool = False


class Sample(NamedTuple):
    """Rows that are looked at, tokenized once."""

    rows: list[list[tuple[str, list[int]]]]  # of each its texts with their token ids
    num_rows: int  # of all
    unknown_id: Any  # None where the tokenizer has no such token


def sample_of(tokenizer: Any, rows: Sequence[Any]) -> Sample:
    """Up to SAMPLE rows, evenly drawn."""
    chosen = [texts_of_row(rows[place]) for place in np.unique(np.linspace(0, len(rows) - 1, SAMPLE).astype(int))]
    texts = [text for row in chosen for text in row]
    options = {"add_special_tokens": False, "return_attention_mask": False, "verbose": False}
    ids = iter(tokenizer(texts, **options)["input_ids"] if texts else [])
    return Sample([[(text, next(ids)) for text in row] for row in chosen], len(rows), tokenizer.unk_token_id)


def preflight(
    recipe: Training,
    accelerator: Accelerator,
    run: RunFolder,
    tokenizer: Any,
    module: torch.nn.Module,
    batches: Any,
    train: Sequence[Any],
    dev: Sequence[Any],
) -> None:
    """Look before the first step. Warnings are always said; --preflight prints the whole table, and --preflight-only
    ends with it.

    Args:
        module: everything that is trained. batches: of the steps. train, dev: rows as they were read.

    Raises:
        ValueError: the run would fail at its end: nobody may push where --push-to says.
        SystemExit: after --preflight-only.
    """

    def look() -> None:
        is_stream = isinstance(train, Stream)
        rows: Sequence[Any] = train.part(0, 1).head(SAMPLE) if is_stream else train
        sample = sample_of(tokenizer, rows)
        findings = [
            of_stream(recipe, rows, dev) if is_stream else of_rows(recipe, train, dev, batches),
            *of_labels("train", rows),
            *of_labels("dev", dev),
            *of_texts(recipe, sample),
            *of_memory(recipe, accelerator, module, sample),
            of_disk(run, module),
            *of_push(recipe),
        ]
        if recipe.preflight or recipe.preflight_only:
            findings[1:1] = of_duplicates(rows, dev)
            print(table(findings))
            return
        for finding in findings:
            if finding.is_warning:
                logger.warning("%s: %s", finding.about, finding.text)

    together(look if accelerator.is_main_process else lambda: None)
    if recipe.preflight_only:
        raise SystemExit(0)


def table(findings: Sequence[Finding]) -> str:
    width = max(len(finding.about) for finding in findings)
    return "\n".join(f"{'!' if f.is_warning else ' '} {f.about:<{width}}  {f.text}" for f in findings)


def of_stream(recipe: Training, seen: Sequence[Any], dev: Sequence[Any]) -> Finding:
    """Nobody knows how long a stream is."""
    text = f"a stream, of which the first {len(seen)} are looked at; {len(dev)} dev; {recipe.max_steps} steps"
    return Finding("rows", text)


def of_rows(recipe: Training, train: Sequence[Any], dev: Sequence[Any], batches: Any) -> Finding:
    """Numbers of rows and steps."""
    steps = recipe.max_steps or max(1, round(recipe.epochs * batches.steps_per_epoch))
    text = f"{len(train)} train, {len(dev)} dev; {steps} steps, {batches.steps_per_epoch} of them an epoch"
    return Finding("rows", text)


def of_duplicates(rows: Sequence[Any], dev: Sequence[Any]) -> list[Finding]:
    """Texts that come twice; rows of different kinds, as plain texts and graded pairs, are not compared."""
    comparable = type(rows[0]) is type(dev[0])
    within, shared = count_duplicates(rows, dev if comparable else rows[:1])
    found = [Finding("repeated texts", f"{within} of {len(rows)} training rows repeat an earlier one")]
    if comparable:
        text = f"{shared} of {len(dev)} dev rows have the texts of a training row"
        found.append(Finding("train and dev", text, shared > 0))
    return found


def of_labels(name: str, rows: Sequence[Any]) -> list[Finding]:
    """Range and ties of grades; the sizes of classes."""
    if isinstance(rows[0], Pair):
        grades = numbers(rows, "label")
        values, counts = np.unique(grades, return_counts=True)
        most, all_equal = counts.max() / len(rows), len(values) == 1
        text = (
            f"{grades.min():g} to {grades.max():g}, mean {grades.mean():.3g}; {len(values)} different, "
            f"{values[counts.argmax()]:g} is {most:.0%} of them"
        )
        return [Finding(f"{name} labels", text + (": nothing can be ranked" if all_equal else ""), all_equal)]
    if isinstance(rows[0], Classified):
        found = Counter(label for row in rows for label in row.labels).most_common()
        if not found:
            return [Finding(f"{name} labels", "no row has a class", True)]
        (most, many), (least, few) = found[0], found[-1]
        text = f"{len(found)} classes, from {few} rows ({least}) to {many} ({most})"
        return [Finding(f"{name} labels", text, few < 2 and name == "train")]
    return []


def of_texts(recipe: Training, sample: Sample) -> list[Finding]:
    """Share of the texts that is cut, and of the tokens that the tokenizer does not know, with examples."""
    cut, unknown, num_tokens, num_units = [], [], 0, 0
    for row in sample.rows:
        limits = recipe.limits([text for text, _ in row], [len(ids) for _, ids in row])
        num_units += len(limits)
        cut += [text for text, length, limit in limits if length > limit]
        for text, ids in row:
            num_tokens += len(ids)
            unknown += [text] * ids.count(sample.unknown_id)
    number = len(sample.rows)
    whole = "" if number == sample.num_rows else f" (of {number} rows, evenly drawn)"
    share, unknown_share = len(cut) / max(1, num_units), len(unknown) / max(1, num_tokens)
    return [
        Finding("cut texts", f"{share:.1%} are longer than --max-length allows{whole}{_examples(cut)}", share > 0.1),
        Finding("[UNK]", f"{unknown_share:.2%} of the tokens{whole}{_examples(unknown)}", unknown_share > 0.01),
    ]


def _examples(texts: Sequence[str]) -> str:
    shown = [text if len(text) <= 30 else text[:29] + "…" for text in dict.fromkeys(texts)][:2]
    return ": " + ", ".join(map(repr, shown)) if shown else ""


def of_memory(recipe: Training, accelerator: Accelerator, module: torch.nn.Module, sample: Sample) -> list[Finding]:
    """About what a micro-batch takes beside weights, gradients and AdamW's two states, against what is free."""
    trained = sum(value.numel() for value in module.parameters() if value.requires_grad)
    frozen = sum(value.numel() for value in module.parameters() if not value.requires_grad)
    shards = accelerator.num_processes if accelerator.distributed_type == "FSDP" else 1
    state = (4 * frozen + 16 * trained) / shards
    config: Any = next((part.config for part in module.modules() if hasattr(part, "config")), None)
    tokens = getattr(recipe, "micro_batch_tokens", None)
    if tokens is None:
        examples = recipe.batch_size / (accelerator.num_processes * recipe.micro_batches)  # ty: ignore[missing-attribute]
        tokens = examples * _longest(recipe, sample)
    size, layers = (getattr(config, name, 0) or 0 for name in ("hidden_size", "num_hidden_layers"))
    width = 2 if recipe.precision != "no" else 4
    # what a layer keeps for the backward pass is some 17 times its input (arXiv 2205.05198, without attention scores)
    activations = tokens * size * layers * width * (1 if recipe.gradient_checkpointing else 17)
    if hasattr(recipe, "micro_batch_tokens") or getattr(recipe, "tasks", "") == "simbert":
        activations += 3 * 4 * tokens * (getattr(config, "vocab_size", 0) or 0)  # logits, their softmax and gradient
    device = accelerator.device
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    else:
        free = psutil.virtual_memory().available / max(1, accelerator.num_processes)
    needed = state + activations
    text = (
        f"about {_bytes(needed)} for {tokens:,.0f} tokens at once ({_bytes(state)} of it weights, gradients and "
        f"states), {_bytes(free)} free"
    )
    advice = "; --micro-batches (for language models --micro-batch-tokens) makes it smaller" if needed > free else ""
    return [Finding("memory", text + advice, needed > free)]


def _longest(recipe: Training, sample: Sample) -> float:
    """Tokens of a long row, as they are cut: nine of ten have fewer."""
    found = [
        sum(min(length, limit) for _, length, limit in recipe.limits([t for t, _ in row], [len(ids) for _, ids in row]))
        for row in sample.rows
    ]
    return float(np.quantile(found, 0.9)) if found else float(recipe.max_length)


def of_disk(run: RunFolder, module: torch.nn.Module) -> Finding:
    weights = sum(value.numel() * value.element_size() for value in module.parameters())
    trained = sum(value.numel() for value in module.parameters() if value.requires_grad)
    needed = KEPT * (weights + 8 * trained) + weights
    free = shutil.disk_usage(run.path).free
    text = f"about {_bytes(needed)} for the model and its checkpoints, {_bytes(free)} free in {run.shown}"
    return Finding("disk", text, needed > free)


def of_push(recipe: Training) -> list[Finding]:
    """Whether the token may write where the model will be pushed; a Hub that can't be reached now is a warning."""
    if not is_on(recipe, "push_to"):
        return []
    try:
        name = check_rights(str(recipe.push_to))
    except PushError as error:
        if "no connection" not in str(error):
            raise ValueError(f"--push-to {recipe.push_to}: {error}") from error
        return [Finding("push", str(error), True)]
    return [Finding("push", f"{name} may write to {recipe.push_to}")]


def _bytes(count: float) -> str:
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.1f} GB"
