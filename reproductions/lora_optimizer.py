"""LoRAOptimizer beside LoRA by modules (peft) and full training, from a pretrained language model to another text.

Claims (kexue.fm/archives/9590): LoRA is an optimizer: without any change of the network, low-rank steps of the gradient
give the same training; A and B may both start random.

    OMP_NUM_THREADS=1 python reproductions/lora_optimizer.py --data texts.txt.gz --other other_texts.txt.gz

A small model is trained on the first text and goes on with the second, all matrices but the embeddings by rank 4, the
rest frozen. Prints the table and draws figures/lora_optimizer.png.

Verdict: holds: with the same init as peft the loss is the same (6.370 ± .012 against 6.371 ± .028), with both random
6.322 ± .012; all weights have 5.632 ± .004. A real model is fine-tuned by lora_finetuning. Table in training/LOG.md.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
import tyro
from _small_lm import LENGTH, Results, dev_loss, read_lines, small_model, split_blocks, spread, train
from peft import LoraConfig, get_peft_model
from torch import nn

from suzoo.data import train_wordpiece
from suzoo.optimizers import LoRAOptimizer, param_groups

R, ALPHA, LR = 4, 8, 3e-3


def linears(model: nn.Module) -> list[str]:
    """Names of the layers' matrices; the head is tied to the embeddings."""
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and "encoder" in name]


def by_optimizer(model: nn.Module, seed: int, **options) -> tuple[nn.Module, torch.optim.Optimizer]:
    chosen = {f"{name}.weight" for name in linears(model)}
    params = [param for name, param in model.named_parameters() if name in chosen]
    model.requires_grad_(False)
    for param in params:
        param.requires_grad_(True)
    options = {"variant": "lora", "init": "symmetric", **options}
    alpha = None if options["variant"] != "lora" else ALPHA
    lr = options.pop("lr", LR)
    inner = lambda groups: torch.optim.AdamW(groups, lr, weight_decay=0.0)  # noqa: E731
    return model, LoRAOptimizer(params, inner, r=R, alpha=alpha, seed=seed, **options)


def by_peft(model: nn.Module, seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    config = LoraConfig(r=R, lora_alpha=ALPHA, target_modules=linears(model))
    adapted = get_peft_model(model, config)
    return adapted, torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], LR, weight_decay=0.0)


def full(model: nn.Module, seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    return model, torch.optim.AdamW(param_groups(model, weight_decay=0.0), 1e-3)


METHODS = {
    "peft LoRA": by_peft,
    "LoRAOptimizer, init as peft": lambda m, s: by_optimizer(m, s, init="peft"),
    "LoRAOptimizer, symmetric": lambda m, s: by_optimizer(m, s),
    "LoRAOptimizer, projection (10)": lambda m, s: by_optimizer(m, s, variant="projection", refresh=10),
    "LoRAOptimizer, additive": lambda m, s: by_optimizer(m, s, variant="additive"),
    "all weights": full,
}


@dataclass
class Options:
    data: str
    """Text file (.gz) to pretrain on."""
    other: str
    """Text file (.gz) to go on with."""
    results: str = "out/lora_optimizer.json"
    """Where runs are kept; those that are there are not repeated."""
    figure: str = "reproductions/figures/lora_optimizer.png"
    num_pretrain: int = 300
    num_updates: int = 100
    seeds: int = 3


def main(options: Options) -> None:
    torch.set_num_threads(1)
    lines = [read_lines(path) for path in (options.data, options.other)]
    tokenizer = train_wordpiece([*lines[0], *lines[1]], vocab_size=1000)
    (blocks, _), (other, dev) = (split_blocks(tokenizer, some) for some in lines)
    results = Results(options.results)
    base = small_model(len(tokenizer), 0)
    pretraining = torch.optim.AdamW(param_groups(base, weight_decay=0.01), 3e-3)
    train(base, pretraining, blocks, dev, num_updates=options.num_pretrain, batch_size=16, seed=99, every=500)
    before = dev_loss(base, dev)

    figure, axis = plt.subplots(figsize=(5, 3.4))
    print(f"blocks of {LENGTH} tokens; dev loss before: {before:.4f}")
    print("| method | trained numbers | dev loss | seconds |\n|---|---|---|---|")
    for name, method in METHODS.items():

        def work(seed: int, method=method) -> dict:
            model, optimizer = method(copy.deepcopy(base), seed)
            sizes = {"num_updates": options.num_updates, "batch_size": 16, "every": 15}
            curve = train(model, optimizer, other, dev, seed=seed, **sizes)
            return {**curve, "numbers": sum(p.numel() for g in optimizer.param_groups for p in g["params"])}

        runs = [results.run(f"{name} seed {s}", lambda s=s, work=work: work(s)) for s in range(options.seeds)]
        seconds = np.median([r["seconds"][-1] for r in runs])
        print(f"| {name} | {runs[0]['numbers']} | {spread(r['loss'][-1] for r in runs)} | {seconds:.1f} |", flush=True)
        axis.plot(runs[0]["updates"], np.mean([r["loss"] for r in runs], 0), label=name)
    axis.set(xlabel="updates", ylabel="dev loss of the other text")
    axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(options.figure, dpi=80)


if __name__ == "__main__":
    main(tyro.cli(Options))
