"""Every measurement and check that needs a GPU, in one command and under eight minutes.

    python benchmarks/gpu.py                 # on one GPU
    python benchmarks/gpu.py --dry           # the same code on a CPU, small: it runs, its numbers mean nothing

Each part has a share of the time and is stopped behind the measurement that used it up; a part that fails says so, and
the others go on. The correctness checks alone are `pytest -m gpu`. Shapes: B texts, L tokens, H heads, K head size.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import bench_attention
import numpy as np
import torch
import torch.nn.functional as F
import tyro
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from suzoo.data import flat_batch
from suzoo.losses import cosent_loss
from suzoo.models import CoSENTModel
from suzoo.models import _matmul as matmul
from suzoo.models import _ragged as ragged
from suzoo.optimizers import AdaFactor, AdaX, Lion, Tiger

ROOT = Path(__file__).parent.parent
SCRIPTS = ("cosent", "cross_encoder", "contrastive", "classifier", "two_tasks", "unilm", "dialogpt", "tta")


@dataclass
class Options:
    dry: bool = False
    """On a CPU, with a small model."""
    parts: tuple[str, ...] = ()
    """Names of the parts to run; default is all, in order."""


class Clock:
    """Whether a part has time left, and how long a call takes when the device has finished it."""

    def __init__(self, seconds: float, device: torch.device):
        self.end, self.device = time.perf_counter() + seconds, device

    @property
    def is_up(self) -> bool:
        return time.perf_counter() > self.end

    def milliseconds(self, call: Callable[[], object], times: int = 1) -> list[float]:
        found = []
        for _ in range(times):
            if found and self.is_up:
                break
            self.wait()
            start = time.perf_counter()
            call()
            self.wait()
            found.append(1000 * (time.perf_counter() - start))
        return found

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def said(name: str, times: list[float]) -> None:
    tail = f"slowest {max(times):.1f} (step {int(np.argmax(times))})"
    print(f"  {name}: median {np.median(times):.2f} ms, q90 {np.quantile(times, 0.9):.2f}, {tail}", flush=True)


def bert(options: Options, device: torch.device) -> CoSENTModel:
    """BERT-base, or a small one, of random weights."""
    torch.manual_seed(0)
    small = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    config = BertConfig(**(small if options.dry else {}))
    return CoSENTModel(config, BertModel(config), pooling="mean").to(device)


def batches(num_pairs: int, device: torch.device, seed: int = 0) -> Iterator[tuple[dict, Tensor]]:
    """Pairs as long as those of STS-B, of another shape in every step."""
    rng = np.random.default_rng(seed)
    while True:
        lengths = np.clip(rng.lognormal(2.6, 0.45, 2 * num_pairs).round(), 5, 70).astype(int)
        rows = [rng.integers(1000, 20000, length) for length in lengths]
        yield flat_batch(rows, device=device), torch.from_numpy(rng.random(num_pairs).astype(np.float32)).to(device)


def stepping(model: CoSENTModel, optimizer: torch.optim.Optimizer) -> Callable[[dict, Tensor], Tensor]:
    """A step of CoSENT in bf16: forward, backward, clipping, optimizer."""

    def step(inputs: dict, labels: Tensor) -> Tensor:
        with torch.autocast(labels.device.type, torch.bfloat16):
            vectors = model(**inputs).sentence_embedding
        loss = cosent_loss(F.cosine_similarity(vectors[0::2], vectors[1::2]), labels)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return step


def attention(options: Options, device: torch.device, clock: Clock) -> None:
    """Kernels with and without masks, a fully masked row, and 64 tokens, against the mathematical form."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    dtype = torch.float32 if options.dry else torch.bfloat16
    kinds = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.MATH]
    for length in (48, 64, 128, 192, 512)[: 2 if options.dry else None]:
        torch.manual_seed(0)
        query, key, value = (
            torch.randn(16, 12, length, 64, device=device, dtype=dtype, requires_grad=True) for _ in range(3)
        )
        padding = torch.arange(length, device=device) < torch.randint(1, length, (16, 1, 1, 1), device=device)
        empty = padding.clone()
        empty[0] = False
        for name, mask in (("no mask", None), ("mask", padding), ("a row fully masked", empty)):
            with sdpa_kernel([SDPBackend.MATH]):
                exact = F.scaled_dot_product_attention(query.float(), key.float(), value.float(), attn_mask=mask)
            for kind in kinds:
                if clock.is_up:
                    return

                def call(kind=kind, mask=mask, query=query, key=key, value=value) -> Tensor:
                    with sdpa_kernel([kind]):
                        out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
                    return torch.autograd.grad(out.float().sum(), query)[0] + 0 * out

                try:
                    grad = call()
                    with sdpa_kernel([kind]):
                        out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
                except RuntimeError as error:
                    print(f"  {length} {name} {kind.name}: not available ({str(error).splitlines()[0][:60]})")
                    continue
                finite = bool(grad.isfinite().all() and out.isfinite().all())
                error = float((out.float() - exact).abs().nan_to_num(9).max())
                times = clock.milliseconds(call, 10)
                print(f"  {length} {name} {kind.name}: {np.median(times):.2f} ms, error {error:.0e}, finite {finite}")


def long_attention(options: Options, device: torch.device, clock: Clock) -> None:
    """Causal attention over long texts, forward and backward: SDPA, windows by mask and by flex, linear, fla's."""
    lengths = (256,) if options.dry else (2048, 8192, 16384)
    settings = bench_attention.Options(device=device.type, lengths=lengths, kinds=("elu1",), max_masked=2048)
    for length in lengths:
        shape = (1, settings.heads, length, settings.head_size)
        states = [torch.randn(shape, device=device, requires_grad=True) for _ in range(3)]
        for name, attend in bench_attention.ways(settings, length, is_causal=True).items():
            if clock.is_up:
                return
            attend(*states).sum().backward()  # warm, and compiled
            times = clock.milliseconds(lambda attend=attend, states=states: attend(*states).sum().backward(), 10)
            said(f"{length} tokens, {name}", times)


def ragged_steps(options: Options, device: torch.device, clock: Clock) -> None:
    """CoSENT with fresh shapes in every step: batch of 32 and of 512, four groups against one, cuDNN on and off."""
    from contextlib import nullcontext

    plan = ((32, 60), (512, 20)) if not options.dry else ((4, 3),)
    kernels, layout = matmul.attention_kernels, ragged.ragged_layout
    for num_pairs, num_steps in plan:
        for name, groups, with_cudnn in (("1 group", 1, False), ("4 groups", 4, False), ("1 group, cuDNN", 1, True)):
            model = bert(options, device).train()
            step = stepping(model, torch.optim.AdamW(model.parameters(), lr=1e-5))
            matmul.attention_kernels = (lambda _: nullcontext()) if with_cudnn else kernels
            _set_layout(lambda *given, groups=groups, **more: layout(*given, **{**more, "num_groups": groups}))
            try:
                times = []
                for inputs, labels in islice(batches(num_pairs, device), num_steps):
                    times += clock.milliseconds(lambda i=inputs, y=labels, step=step: step(i, y))
                    if clock.is_up:
                        break
            finally:
                matmul.attention_kernels = kernels
                _set_layout(layout)
            said(f"{num_pairs} pairs, {name}, {len(times)} steps", times)
            if clock.is_up:
                return


def _set_layout(layout: Callable) -> None:
    from suzoo.models import modeling_cosent

    modeling_cosent.ragged_layout = layout


def peer_step(options: Options, device: torch.device, clock: Clock) -> None:
    """The step that sentence-transformers takes (a padded forward per column), with sdpa and with flash attention."""
    for implementation in ("sdpa", "flash_attention_2"):
        try:
            model = bert(options, device).train()
            model.encoder.set_attn_implementation(implementation)
        except (ImportError, ValueError) as error:
            print(f"  {implementation}: {str(error).splitlines()[0][:100]}")
            continue
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
        times = []
        for inputs, labels in islice(batches(4 if options.dry else 32, device), 3 if options.dry else 60):
            columns = [_column(inputs, side) for side in (0, 1)]

            def step(columns=columns, labels=labels, model=model, optimizer=optimizer) -> None:
                with torch.autocast(device.type, torch.bfloat16):
                    u, v = (model(ids, mask).sentence_embedding for ids, mask in columns)
                cosent_loss(F.cosine_similarity(u, v), labels).backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)

            times += clock.milliseconds(step)
            if clock.is_up:
                break
        said(f"sentence-transformers' step, {implementation}", times)


def _column(inputs: dict, side: int) -> tuple[Tensor, Tensor]:
    rows = list(inputs["input_ids"].split(inputs["lengths"]))[side::2]
    ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return ids, (ids != 0).long()


def idle(options: Options, device: torch.device, clock: Clock) -> None:
    """Waits of the host, as torch's sync debug mode sees them, and the share of the time in which no kernel ran."""
    model = bert(options, device).train()
    step = stepping(model, torch.optim.AdamW(model.parameters(), lr=1e-5))
    given = list(islice(batches(4 if options.dry else 32, device), 8))
    for inputs, labels in given[:3]:
        step(inputs, labels)
    if device.type != "cuda":
        print("  needs CUDA")
        return
    import warnings

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        step(*given[3])
        torch.cuda.set_sync_debug_mode("default")
    print(f"  {len(caught)} waits in a step: {sorted({f'{Path(w.filename).name}:{w.lineno}' for w in caught})}")
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        start = time.perf_counter()
        for inputs, labels in given[3:]:
            step(inputs, labels)
        clock.wait()
        seconds = time.perf_counter() - start
    busy = sum(event.device_time_total for event in profile.events()) / 1e6
    print(f"  the device is idle {100 * max(0.0, 1 - busy / seconds):.0f} % of {len(given[3:])} steps")


def _command(script: str, *arguments: str) -> list[str]:
    scratch = ["--model", "None"] if script == "cross_encoder" else []  # its quickstart starts from another's encoder
    return [sys.executable, str(ROOT / "training" / f"train_{script}.py"), "quickstart", "-q", *scratch, *arguments]


def _train(script: str, *arguments: str) -> int:
    run = subprocess.run(_command(script, *arguments), capture_output=True, text=True)
    if run.returncode:
        print("   ", run.stderr.strip().splitlines()[-1][:200] if run.stderr.strip() else run.returncode)
    return run.returncode


def recipes(options: Options, device: torch.device, clock: Clock) -> None:
    """The quickstart in fp32, bf16 and fp16; killed behind its first checkpoint, and resumed."""
    size = ["--max-train-samples", "256", "--max-dev-samples", "64", "--max-steps", "8", "--save-every", "2"]
    with tempfile.TemporaryDirectory() as folder:
        for precision in ("no", "bf16", *(("fp16",) if device.type == "cuda" else ())):
            if clock.is_up:
                return
            start = time.perf_counter()
            code = _train("cosent", *size, "--precision", precision, "--output-dir", f"{folder}/{precision}")
            print(f"  quickstart, {precision}: exit {code}, {time.perf_counter() - start:.0f} s", flush=True)
        out = Path(folder) / "killed"
        command = _command("cosent", *size, "--output-dir", str(out))
        run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while run.poll() is None and not clock.is_up and not list(out.glob("checkpoints/step-*")):
            time.sleep(0.05)
        run.kill()
        run.wait()
        print(f"  killed, resumed: exit {_train('cosent', *size, '--output-dir', str(out), '--resume')}", flush=True)


def scripts(options: Options, device: torch.device, clock: Clock) -> None:
    """Twenty steps of every script."""
    steps = "2" if options.dry else "20"
    for script in SCRIPTS:
        if clock.is_up:
            print(f"  {script}: no time left")
            continue
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            sizes = ("--max-steps", steps, "--max-dev-samples", "16", "--output-dir", f"{folder}/out")
            print(f"  {script}: exit {_train(script, *sizes)}, {time.perf_counter() - start:.0f} s", flush=True)


def optimizers(options: Options, device: torch.device, clock: Clock) -> None:
    """Steps over the tensors of BERT against fused AdamW, plain and compiled."""
    shapes = [value.shape for value in bert(options, torch.device("cpu")).parameters()]
    for name, make in {
        "AdamW, fused": lambda p: torch.optim.AdamW(p, fused=True),
        **{f"{kind.__name__}": kind for kind in (Lion, Tiger, AdaX, AdaFactor)},
        **{
            f"{kind.__name__}, compiled": (lambda p, k=kind: k(p, compile=True))
            for kind in (Lion, Tiger, AdaX, AdaFactor)
        },
    }.items():
        if clock.is_up:
            return
        params = [nn.Parameter(torch.randn(shape, device=device)) for shape in shapes]
        for param in params:
            param.grad = torch.randn_like(param)
        optimizer = make(params)
        said(f"{name}, first step", clock.milliseconds(optimizer.step))
        said(name, clock.milliseconds(optimizer.step, 3 if options.dry else 30))


def replays(options: Options, device: torch.device, clock: Clock) -> None:
    """Cached gradients and VAT draw the same dropout again, on the device."""
    from accelerate import Accelerator

    from suzoo.engine import batch_coupled_backward
    from suzoo.regularizers import vat_loss

    model = bert(options, device).train()
    accelerator = Accelerator(cpu=device.type == "cpu")
    parts = [inputs for inputs, _ in islice(batches(4, device), 3)]
    passes: list[Tensor] = []

    def embed(inputs: dict) -> Tensor:
        vectors = model(**inputs).sentence_embedding
        passes.append(vectors.detach())
        return vectors

    batch_coupled_backward(accelerator, model, parts, embed, lambda vectors: vectors.square().mean())
    same = all(torch.allclose(a, b, atol=1e-5) for a, b in zip(passes[:3], passes[3:], strict=True))
    print(f"  the replay of micro-batches has their dropout: {same}")
    divergence = vat_loss(lambda: model(**parts[0]).sentence_embedding, model.get_input_embeddings(), epsilon=0.0)
    print(f"  VAT of length 0 is {float(divergence.detach()):.1e}, which is 0 where all passes have one dropout")


# name: (what, seconds)
PARTS: dict[str, tuple[Callable[[Options, torch.device, Clock], None], int]] = {
    "attention": (attention, 60),
    "long_attention": (long_attention, 30),
    "ragged": (ragged_steps, 70),
    "peer": (peer_step, 45),
    "idle": (idle, 45),
    "recipes": (recipes, 60),
    "scripts": (scripts, 60),
    "optimizers": (optimizers, 60),
    "replays": (replays, 40),
}


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    if unknown := set(options.parts) - PARTS.keys():
        raise SystemExit(f"--parts knows {', '.join(PARTS)}, not {', '.join(sorted(unknown))}")
    if not options.dry and not torch.cuda.is_available():
        raise SystemExit("no GPU here: --dry runs the same code on a CPU")
    device = torch.device("cpu" if options.dry else "cuda")
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU, dry: the numbers mean nothing"
    print(f"torch {torch.__version__}, {name}", flush=True)
    failed = []
    for part in options.parts or PARTS:
        run, seconds = PARTS[part]
        print(f"{part}: {(run.__doc__ or '').splitlines()[0]}", flush=True)
        start = time.perf_counter()
        try:
            run(options, device, Clock(seconds, device))
        except Exception:  # one part must not cost the others their turn
            traceback.print_exc()
            failed.append(part)
        print(f"  {time.perf_counter() - start:.0f} s", flush=True)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
