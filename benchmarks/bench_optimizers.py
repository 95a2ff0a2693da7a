"""Optimizer steps on the 199 tensors of BERT-base (109.5M), in turns with torch.optim.AdamW(fused=True).

    python benchmarks/bench_optimizers.py                       # all, on the CPU
    python benchmarks/bench_optimizers.py --names Lion Tiger --device cuda --compile-times

Prints time(optimizer) / time(AdamW fused), lower is better, median and 10 % and 90 % quantiles of the paired rounds,
the state per parameter, and with --compile-times the first step in a fresh process without and with torch's caches.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass

import torch
import tyro
from timing import paired

from suzoo.optimizers import AccumulatedAdamW, AdaFactor, AdaX, Lion, Tiger


def knowing(tiger: Tiger) -> Tiger:
    """As `suzoo.engine.fit` steps it, which clips and so knows that the gradients are finite."""
    tiger.found_inf = torch.tensor(0.0)
    return tiger


OPTIMIZERS = {
    "Lion": lambda groups: Lion(groups, weight_decay=0.1, compile=True),
    "Tiger": lambda groups: Tiger(groups, compile=True),
    "Tiger, norm known": lambda groups: knowing(Tiger(groups, compile=True)),
    "AdaX": lambda groups: AdaX(groups, compile=True),
    "AdaFactor": lambda groups: AdaFactor(groups, compile=True),
    "Lion, plain": lambda groups: Lion(groups, weight_decay=0.1, foreach=False),
    "Tiger, plain": lambda groups: Tiger(groups, foreach=False),
    "AdaX, plain": lambda groups: AdaX(groups, foreach=False),
    "AdaFactor, plain": lambda groups: AdaFactor(groups, foreach=False),
    "Lion, foreach": lambda groups: Lion(groups, weight_decay=0.1, foreach=True),
    "Tiger, foreach": lambda groups: Tiger(groups, foreach=True),
    "AdaX, foreach": lambda groups: AdaX(groups, foreach=True),
    "AdaFactor, foreach": lambda groups: AdaFactor(groups, foreach=True),
    "torch Adafactor": lambda groups: torch.optim.Adafactor(groups),
}
# what a step costs without the arithmetic, against torch.optim.AdamW(foreach=True)
SMALL = {
    "Lion": lambda params: Lion(params),
    "Tiger": lambda params: Tiger([{"params": params, "kind": "bias"}]),
    "AdaX": lambda params: AdaX(params),
    "AdaFactor": lambda params: AdaFactor(params),
    "AccumulatedAdamW": lambda params: AccumulatedAdamW(params),
}


@dataclass
class Options:
    names: tuple[str, ...] = tuple(OPTIMIZERS)
    """Which to run."""
    rounds: int = 15
    """Paired steps."""
    device: str = "cpu"
    compile_times: bool = False
    """Also the first step of the compiled ones in fresh processes."""
    small: bool = False
    """Instead, 200 vectors of 64 elements against torch.optim.AdamW(foreach=True): the overhead of a step."""
    first_step: str = ""
    """Internal: print the seconds of the first step of this one, and stop."""


def bert_base(device: str) -> list[dict]:
    """Groups by kind, with gradients."""
    hidden, inner, layers = 768, 3072, 12
    shapes = {
        "embedding": [(30522, hidden), (512, hidden), (2, hidden)],
        "matrix": layers * ([(hidden, hidden)] * 4 + [(inner, hidden), (hidden, inner)]) + [(hidden, hidden)],
        "norm": (2 * layers + 1) * [(hidden,)],
        "bias": layers * ([(hidden,)] * 5 + [(inner,)] + [(hidden,)] * 2) + [(hidden,)] * 2,
    }
    generator = torch.Generator(device).manual_seed(0)
    groups = []
    for kind, kind_shapes in shapes.items():
        params = []
        for shape in kind_shapes:
            param = torch.nn.Parameter(0.03 * torch.randn(shape, generator=generator, device=device))
            param.grad = torch.randn(shape, generator=generator, device=device)
            params.append(param)
        groups.append({"params": params, "kind": kind})
    return groups


def bytes_per_parameter(optimizer) -> float:
    state = [v for s in optimizer.state.values() for v in s.values()]
    count = sum(p.numel() for group in optimizer.param_groups for p in group["params"])
    return sum(v.numel() * v.element_size() for v in state) / count


def step_of(optimizer, device: str):
    def step(_):
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return step


def first_step(name: str, device: str) -> float:
    optimizer = OPTIMIZERS[name](bert_base(device))
    start = time.perf_counter()
    step_of(optimizer, device)(0)
    return time.perf_counter() - start


def first_step_alone(name: str, device: str, environment: dict[str, str]) -> float:
    command = [sys.executable, __file__, "--first-step", name, "--device", device]
    run = subprocess.run(command, env=os.environ | environment, check=True, capture_output=True, text=True)
    return float(run.stdout)


def small_tensors(options: Options) -> None:
    def vectors() -> list[torch.nn.Parameter]:
        generator = torch.Generator(options.device).manual_seed(0)
        params = [torch.nn.Parameter(torch.randn(64, generator=generator, device=options.device)) for _ in range(200)]
        for param in params:
            param.grad = torch.randn(64, generator=generator, device=options.device)
        return params

    for name, make in SMALL.items():
        ours, adamw = make(vectors()), torch.optim.AdamW(vectors(), foreach=True)
        ratio = paired(step_of(ours, options.device), step_of(adamw, options.device), 20 * options.rounds, warmup=5)
        print(
            f"{name:20} {1 / ratio.median:5.2f} ({1 / ratio.q90:.2f}-{1 / ratio.q10:.2f})  "
            f"{1000 * ratio.ours:5.2f} ms, AdamW {1000 * ratio.peer:5.2f} ms, its drift {100 * ratio.drift:.0f} %",
            flush=True,
        )


def main(options: Options) -> None:
    if options.first_step:
        print(first_step(options.first_step, options.device))
        return
    if options.small:
        small_tensors(options)
        return
    print(f"torch {torch.__version__}, {options.device}, {torch.get_num_threads()} threads, {options.rounds} rounds")
    for name in options.names:
        groups = bert_base(options.device)
        ours = OPTIMIZERS[name](groups)
        adamw = torch.optim.AdamW([p for group in bert_base(options.device) for p in group["params"]], fused=True)
        ratio = paired(step_of(ours, options.device), step_of(adamw, options.device), options.rounds, warmup=3)
        print(
            f"{name:20} {1 / ratio.median:5.2f} ({1 / ratio.q90:.2f}-{1 / ratio.q10:.2f})  "
            f"{1000 * ratio.ours:7.1f} ms, AdamW {1000 * ratio.peer:7.1f} ms, its drift {100 * ratio.drift:.0f} %, "
            f"state {bytes_per_parameter(ours) / 4:.3f} floats per parameter",
            flush=True,
        )
        del groups, ours, adamw
    if options.compile_times:
        for name in (name for name in options.names if "," not in name and name in OPTIMIZERS):
            with tempfile.TemporaryDirectory() as folder:
                # torch precompiles its header once per machine, beside the kernels' default place
                nothing, no_kernels, cached = (
                    first_step_alone(
                        name, options.device, {"TMPDIR": folder, "TORCHINDUCTOR_CACHE_DIR": folder + kernels}
                    )
                    for kernels in ("/first", "/second", "/second")
                )
            print(
                f"{name:20} first step {no_kernels:.1f} s without cached kernels, {nothing:.1f} s without torch's "
                f"precompiled header too, {cached:.1f} s with both",
                flush=True,
            )


if __name__ == "__main__":
    main(tyro.cli(Options))
