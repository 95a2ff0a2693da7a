"""Time and memory of attention over the length: softmax (SDPA), a window, and linear attention.

    python benchmarks/bench_attention.py                  # one CPU thread; minutes
    python benchmarks/bench_attention.py --device cuda    # also flex and, if installed, flash-linear-attention

One layer's attention of `--heads` heads of `--head-size`, batch 1: forward and backward in milliseconds, the least of
`--repeats`; the largest memory of the backward's graph; and a decoding step on top of n tokens. Linear attention has a
slope of 1 in log time over log n, softmax one of 2; the crossover is where they meet. Results: RESULTS.md.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import tyro
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as sdpa

from suzoo.models._linear_attention import LINEAR_KINDS, linear_attention


@dataclass
class Options:
    lengths: tuple[int, ...] = (512, 1024, 2048, 4096, 8192, 16384)
    heads: int = 6
    head_size: int = 64
    window: int = 256
    chunk_size: int = 64
    repeats: int = 3
    device: str = "cpu"
    kinds: tuple[str, ...] = ("elu1", "taylor1", "efficient")
    """Of linear attention; taylor2 has 4161 features per head and takes its time."""
    max_masked: int = 8192
    """Longest text for the window, whose mask is a table of n^2."""


def seconds(work: Callable[[], object], repeats: int, device: str) -> float:
    """The least of some; on a CPU those that the process had, which other work on the machine does not lengthen."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    best = math.inf
    for _ in range(repeats):
        if device == "cuda":
            torch.cuda.synchronize()
        start = clock()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, clock() - start)
    return best


def saved_bytes(work: Callable[[], Tensor]) -> int:
    """What autograd keeps for the backward, every storage once."""
    storages: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        output = work()
        return sum(storages.values()) if output is not None else 0


def window_mask(length: int, window: int, is_causal: bool, device: str) -> Tensor:
    places = torch.arange(length, device=device)
    distance = places[:, None] - places
    return (distance >= 0) & (distance < window) if is_causal else distance.abs() < window


def ways(options: Options, length: int, is_causal: bool) -> dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]]:
    found = {"softmax (SDPA)": lambda q, k, v: sdpa(q, k, v, is_causal=is_causal)}
    if length <= options.max_masked:
        mask = window_mask(length, options.window, is_causal, options.device)
        found[f"window {options.window} (SDPA, mask)"] = lambda q, k, v: sdpa(q, k, v, attn_mask=mask)
    if options.device == "cuda":
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        def near(batch, head, query, key):
            inside = (query - key).abs() < options.window
            return inside & (query >= key) if is_causal else inside

        block = create_block_mask(near, None, None, length, length, device="cuda")
        compiled = torch.compile(flex_attention)
        found[f"window {options.window} (flex)"] = lambda q, k, v: compiled(q, k, v, block_mask=block)
        if is_causal:
            try:
                from fla.ops.linear_attn import chunk_linear_attn
            except ImportError:
                print("flash-linear-attention is not installed")
            else:
                found["flash-linear-attention"] = lambda q, k, v: chunk_linear_attn(
                    *(x.transpose(1, 2) for x in (torch.nn.functional.elu(q) + 1, torch.nn.functional.elu(k) + 1, v)),
                    normalize=True,
                )[0]
    for kind in options.kinds:
        found[f"linear, {kind}"] = lambda q, k, v, kind=kind: linear_attention(
            q, k, v, kind=kind, is_causal=is_causal, chunk_size=options.chunk_size
        )[0]
    return found


def measure(options: Options, is_causal: bool) -> dict[str, dict[int, tuple[float, float, float]]]:
    """Way -> length -> (forward ms, forward and backward ms, MiB kept for the backward)."""
    results: dict[str, dict[int, tuple[float, float, float]]] = {}
    for length in options.lengths:
        shape = (1, options.heads, length, options.head_size)
        tensors = [torch.randn(shape, device=options.device, requires_grad=True) for _ in range(3)]
        for name, attend in ways(options, length, is_causal).items():

            def both(attend=attend, tensors=tensors):
                attend(*tensors).sum().backward()

            def forward(attend=attend, tensors=tensors):
                with torch.no_grad():
                    attend(*tensors)

            forward()  # warm, and compiled
            both()
            times = [1e3 * seconds(work, options.repeats, options.device) for work in (forward, both)]
            kept = saved_bytes(lambda attend=attend, tensors=tensors: attend(*tensors)) / 2**20
            results.setdefault(name, {})[length] = (*times, kept)
            # as it goes: a run that is cut off has not been for nothing
            print(f"{length}, {name}: {times[0]:.3g} and {times[1]:.3g} ms", file=sys.stderr, flush=True)
    return results


def decoding(options: Options) -> dict[str, dict[int, float]]:
    """Way -> length of the past -> milliseconds of a step."""
    results: dict[str, dict[int, float]] = {}
    for length in options.lengths:
        shape = (1, options.heads, length, options.head_size)
        keys, values = (torch.randn(shape, device=options.device) for _ in range(2))
        with torch.no_grad():
            for name, step in steps(options, keys, values).items():
                step()
                results.setdefault(name, {})[length] = 1e3 * seconds(step, 10 * options.repeats, options.device)
    return results


def steps(options: Options, keys: Tensor, values: Tensor) -> dict[str, Callable[[], object]]:
    query = keys[:, :, :1]
    near = keys[:, :, -options.window :], values[:, :, -options.window :]
    found: dict[str, Callable[[], object]] = {
        "softmax (SDPA)": lambda: sdpa(query, keys, values),
        f"window {options.window}": lambda: sdpa(query, *near),
    }
    for kind in options.kinds:
        state = linear_attention(keys, keys, values, kind=kind, is_causal=True)[1]
        found[f"linear, {kind}"] = lambda kind=kind, state=state: linear_attention(
            query, query, query, kind=kind, is_causal=True, state=state
        )
    return found


def slope(times: dict[int, float]) -> str:
    """Of log time over log n, between the two longest; of one length there is none."""
    if len(times) < 2:
        return ""
    (first, early), (second, late) = sorted(times.items())[-2:]
    return f"{math.log(late / early) / math.log(second / first):.2f}"


def crossover(slow: dict[int, float], fast: dict[int, float]) -> str:
    """Where `fast` begins to be faster."""
    faster = [length for length in sorted(fast.keys() & slow.keys()) if fast[length] < slow[length]]
    return f"n = {faster[0]}" if faster else "not reached"


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    unknown = set(options.kinds) - set(LINEAR_KINDS)
    if unknown:
        raise SystemExit(f"--kinds are of {', '.join(LINEAR_KINDS)}, not {', '.join(unknown)}")
    torch.manual_seed(0)
    torch.set_num_threads(1)  # the seconds of a process add up over threads
    columns = [f"{length}" for length in options.lengths]
    for is_causal in (True, False):
        results = measure(options, is_causal)
        for place, title in enumerate(("forward, ms", "forward and backward, ms", "kept for the backward, MiB")):
            print(f"\n{'causal' if is_causal else 'both directions'}: {title}\n")
            print(f"| n | {' | '.join(columns)} | slope |\n|---|{'---|' * (len(columns) + 1)}")
            for name, row in results.items():
                cells = [f"{row[n][place]:.3g}" if n in row else "" for n in options.lengths]
                print(f"| {name} | {' | '.join(cells)} | {slope({n: row[n][place] for n in row})} |", flush=True)
        softmax = {n: row[1] for n, row in results["softmax (SDPA)"].items()}
        for name, row in results.items():
            if name.startswith("linear"):
                times = {n: row[n][1] for n in row}
                ratios = ", ".join(f"{softmax[n] / times[n]:.1f} at {n}" for n in times)
                print(f"{name}: crossover {crossover(softmax, times)}; times as fast as softmax: {ratios}")
    print(f"\ndecoding, ms per token\n\n| n | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for name, row in decoding(options).items():
        print(f"| {name} | {' | '.join(f'{row[n]:.3g}' for n in options.lengths)} |")


if __name__ == "__main__":
    main()
