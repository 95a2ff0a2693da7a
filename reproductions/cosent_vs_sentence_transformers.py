"""CoSENT by train_cosent.py beside sentence-transformers' own trainer with its CoSENTLoss, at equal budget.

Claim: none of an article. Both minimize the loss of kexue.fm/archives/8847; ours should learn no less from the same
steps, on the task itself and on sets of other texts.

    python reproductions/cosent_vs_sentence_transformers.py --model MODEL --data stsb_zh.train.tsv \
        --dev stsb_zh.dev.tsv lcqmc.dev.tsv atec.tsv

Here: multilingual-e5-small (12 layers of 384, vocabulary cut to 30,000 pieces), one pass over 5,231 pairs of STS-B zh:
163 batches of 32, AdamW at 2e-5 with decay 0.01, a tenth of the steps warm-up and then linear, 64 tokens, dropout 0.1,
float32. The weights behind the last step count, whatever their dev score. Spearman's ρ, of 2,000 rows at most.

Verdict: holds: level with it. STS-B zh .854 ± .003 against .853 ± .001 (before training .814), LCQMC .689 ± .001
against .688 ± .001, ATEC .336 ± .008 against .342 ± .006, three seeds each: all differences lie within the spread.
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import tyro
from _runs import spread, train

BATCH, LENGTH, SCALE, WARMUP, DECAY = 32, 64, 20.0, 0.1, 0.01


@dataclass
class Options:
    model: str
    """Weights to start from: a sentence encoder, in a folder or on the Hub."""
    data: Path
    """Sentence pairs to train on."""
    dev: tuple[Path, ...]
    """Sets of sentence pairs to score."""
    steps: int = 163
    """Batches of 32 pairs; the default is one pass over STS-B zh."""
    lr: float = 2e-5
    max_rows: int = 2000
    """Rows of a set that are scored, from its start."""
    out: Path = Path("out/cosent-vs-sentence-transformers")
    """Folder of the runs; finished ones are kept."""
    seeds: tuple[int, ...] = (0, 1, 2)


def ours(options: Options, folder: Path, seed: int) -> None:
    """Train into `folder` by train_cosent.py."""
    flags = ["--model", options.model, "--data", options.data, "--dev", options.dev[0], "--max-dev-samples", 100]
    flags += ["--max-steps", options.steps, "--evaluate-every", options.steps, "--batch-size", BATCH, "--seed", seed]
    flags += ["--lr", options.lr, "--schedule", "linear", "--warmup", WARMUP, "--weight-decay", DECAY]
    train("train_cosent", "finetune", folder, [*flags, "--max-length", LENGTH, "--scale", SCALE])


def theirs(options: Options, folder: Path, seed: int) -> None:
    """Train into `folder` by sentence-transformers, on one thread like ours."""
    import torch
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import CoSENTLoss

    from suzoo.data import read_pairs

    if (folder / "model.safetensors").exists():
        return
    torch.set_num_threads(1)
    model = SentenceTransformer(options.model)
    model.max_seq_length = LENGTH
    rows = [{"text1": row.text1, "text2": row.text2, "label": float(row.label)} for row in read_pairs(options.data)]
    arguments = SentenceTransformerTrainingArguments(
        str(folder),
        max_steps=options.steps,
        per_device_train_batch_size=BATCH,
        dataloader_drop_last=True,
        learning_rate=options.lr,
        lr_scheduler_type="linear",
        warmup_steps=WARMUP,
        weight_decay=DECAY,
        max_grad_norm=1.0,
        seed=seed,
        save_strategy="no",
        report_to="none",
    )
    trainer = SentenceTransformerTrainer(
        model=model, args=arguments, train_dataset=Dataset.from_list(rows), loss=CoSENTLoss(model, scale=SCALE)
    )
    started = time.process_time()
    with redirect_stdout(sys.stderr):
        trainer.train()
    print(f"{folder.name}: {time.process_time() - started:.0f} s", file=sys.stderr, flush=True)
    model.save_pretrained(str(folder), create_model_card=False)


def scores(model: str | Path, options: Options, kept: Path) -> dict[str, float]:
    """Spearman's ρ of every set, by one reader whoever saved the model; kept in `kept`."""
    from suzoo.data import numbers, read_pairs
    from suzoo.evaluation import pair_cosines, spearman
    from suzoo.models import CoSENTModel

    found = json.loads(kept.read_text()) if kept.exists() else {}
    encoder = None
    for path in options.dev:
        name = f"{path.stem}, {options.max_rows}"
        if name not in found:
            encoder = encoder or CoSENTModel.from_pretrained(str(model), max_seq_length=LENGTH)
            rows = read_pairs(path, max_rows=options.max_rows)
            found[name] = spearman(pair_cosines(encoder.encode, rows), numbers(rows, "label"))
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(found))
    return {path.stem: found[f"{path.stem}, {options.max_rows}"] for path in options.dev}


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    names = [path.stem for path in options.dev]
    print(f"| | {' | '.join(names)} |\n|---|{'---|' * len(names)}", flush=True)
    before = scores(options.model, options, options.out / "before.json")
    print(f"| before | {' | '.join(spread([before[name]]) for name in names)} |", flush=True)
    trainers = {"suzoo": ours, "sentence-transformers": theirs}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in trainers}
    for seed in options.seeds:  # all rows of a seed first: what is cut short still compares
        for row, trained in trainers.items():
            folder = options.out / f"{row}-{seed}"
            trained(options, folder, seed)
            found[row].append(scores(folder, options, options.out / f"{folder.name}.json"))
            print(folder.name, found[row][-1], file=sys.stderr, flush=True)
    for row, runs in found.items():
        print(f"| {row} | {' | '.join(spread([run[name] for run in runs]) for name in names)} |", flush=True)


if __name__ == "__main__":
    main()
