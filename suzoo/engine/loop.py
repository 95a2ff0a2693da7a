"""The training loop: stepping, clipping, schedule, evaluation, checkpoints, resume, signals."""

from __future__ import annotations

import contextlib
import logging
import math
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from tqdm.auto import tqdm

from suzoo.distributed import all_gather_objects, all_reduce_mean, all_true
from suzoo.engine.batches import Ahead
from suzoo.engine.checkpoint import load_checkpoint, save_checkpoint
from suzoo.engine.folder import RunFolder
from suzoo.engine.stream_batches import StreamBatches
from suzoo.models._matmul import decide_fast_matmul, fast_matmul
from suzoo.terminal import is_quiet

logger = logging.getLogger(__name__)


class Batches(Protocol):
    """What `fit` reads: a pure function from step to this rank's micro-batches, so that a run can resume anywhere.

    It is called ahead of the step, in a thread, so it draws from no global generator. `StreamBatches` go step by step:
    where they are goes into the checkpoints.
    """

    @property
    def steps_per_epoch(self) -> int | None: ...

    def __getitem__(self, step: int) -> list[Any]: ...

    def rows(self, step: int) -> Any: ...


@dataclass
class Progress:
    """How a run stands; saved in every checkpoint."""

    step: int = 0
    best_step: int | None = None
    best_value: float | None = None
    evaluations_without_gain: int = 0
    seconds: float = 0.0
    stopped_early: bool = False


class Interrupted(SystemExit):
    """The run was asked to stop and has written a checkpoint; the exit code is 128 + the signal."""


class _Means:
    """Means of the numbers of each step since the last point of the log; kept in checkpoints."""

    def __init__(self) -> None:
        self.sums: dict[str, list[float]] = {}

    def add(self, values: dict[str, Any]) -> None:
        for name, value in values.items():
            total, count = self.sums.get(name, (0.0, 0))
            self.sums[name] = [total + float(value), count + 1]

    def take(self) -> dict[str, float]:
        found = {name: total / count for name, (total, count) in self.sums.items()}
        self.sums = {}
        return found


class _Signals:
    """Notes SIGTERM, SIGHUP and SIGINT instead of dying; a second Ctrl-C dies, a second of the others says no more."""

    def __enter__(self):
        self.received: int | None = None
        self._old = {}
        for name in ("SIGTERM", "SIGHUP", "SIGINT"):  # Windows has no SIGHUP
            number = getattr(signal, name, None)
            if number is None or signal.getsignal(number) is signal.SIG_IGN:  # nohup stays nohup
                continue
            with contextlib.suppress(ValueError):  # not in the main thread: no signal arrives there
                self._old[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = self.received or number

    def __exit__(self, *exc) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)


def fit(
    step: Callable[[list[Any]], dict[str, Any]],
    *,
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Batches,
    num_steps: int,
    run: RunFolder,
    schedule: torch.optim.lr_scheduler.LRScheduler | None = None,
    max_grad_norm: float | None = 1.0,
    evaluate: Callable[[], dict[str, float]] | None = None,
    evaluate_every: int | None = None,
    monitor: str = "spearman",
    greater_is_better: bool = True,
    patience: int | None = None,
    save_every: int | None = None,
    keep_checkpoints: int = 2,
    resume: bool = False,
    log_every: int = 10,
) -> Progress:
    """Train for `num_steps` optimizer steps and leave the best weights in `model`.

    Args:
        step: gets all micro-batches of one optimizer step on this rank, does the backward passes through
            `accelerator.backward`, and returns metrics; "loss" must be among them. With an optimizer that accumulates
            by itself it gets them one at a time, in lists of one, and the logged metrics are their means.
        accelerator, model, optimizer: as `accelerator.prepare` returned them. An optimizer with `accumulation_steps=k`
            needs k micro-batches per step, so that a step is one update of the weights for every optimizer:
            evaluations and checkpoints never fall inside a window.
        batches: step number -> micro-batches.
        num_steps: updates of the weights.
        run: where metrics and checkpoints go.
        schedule: stepped once per update.
        max_grad_norm: gradients are clipped to this total norm; None leaves them.
        evaluate: -> numbers; every `evaluate_every` steps (default: each epoch) and at the end. With it, the best
            weights are loaded back at the end; without it the last ones stay.
        monitor, greater_is_better: by which number the best weights are chosen, and in which direction. A NaN is never
            the best: it counts as no gain, with one warning.
        patience: stop after this many evaluations without a gain.
        save_every: also write a checkpoint every so many steps; each evaluation writes one.
        resume: continue from the newest complete checkpoint of `run`, with any number of processes. With the number
            that wrote it the run goes on to the same bits, on CPUs: kernels of GPUs add up in other orders.

    Raises:
        ValueError: the loss is not finite (names the step and rows; the last checkpoint stays), or the checkpoint is
            of another model or optimizer. Or the optimizer accumulates by itself and was given clipping, fp16,
            DeepSpeed, or another number of micro-batches.
        Interrupted: after SIGTERM or Ctrl-C, with a checkpoint written.
    """
    window = _accumulation_steps(optimizer, accelerator, max_grad_norm)
    bare = accelerator.unwrap_model(model, keep_torch_compile=False)
    # NCCL reduces tensors of its own device only; alone, numbers stay on the CPU, which has float64 everywhere
    meeting_place = accelerator.device if accelerator.num_processes > 1 else torch.device("cpu")
    evaluate_every = evaluate_every or batches.steps_per_epoch or num_steps
    result = Progress()

    means = _Means()

    def save(folder: Path, **state) -> None:
        save_checkpoint(folder, model=bare, state=state, disks=run.disks)

    def save_all() -> None:
        result.seconds = time.perf_counter() - started
        save(
            run.checkpoints / f"step-{result.step:08d}",
            fit=asdict(result),
            means=means.sums,
            optimizer_class=type(_own(optimizer)).__name__,
            optimizer=optimizer.state_dict(),
            schedule=schedule.state_dict() if schedule else None,
            scaler=accelerator.scaler.state_dict() if accelerator.scaler else None,
            stream=batches.state(result.step) if isinstance(batches, StreamBatches) else None,
            fast_matmul=product_is_fast,
        )
        run.prune(keep_checkpoints, result.best_step)

    product_is_fast: bool | None = None
    started = time.perf_counter()
    if resume:
        found = run.newest_checkpoint()
        if found:
            state = load_checkpoint(found, model=bare, optimizer=optimizer)
            result = Progress(**state["fit"])
            means.sums = state["means"]
            product_is_fast = state.get("fast_matmul", False)  # older runs knew one product
            ours = type(_own(optimizer)).__name__
            if (theirs := state["optimizer_class"]) != ours:
                raise ValueError(f"{found} holds the state of {theirs}, not of {ours}: resume with that optimizer")
            optimizer.load_state_dict(state["optimizer"])
            if schedule:
                schedule.load_state_dict(state["schedule"])
            if accelerator.scaler:
                accelerator.scaler.load_state_dict(state["scaler"])
            if isinstance(batches, StreamBatches):
                batches.load(result.step, state["stream"])
            logger.info("resumed from %s", found)
            if run.processes_then != accelerator.num_processes:
                logger.warning(
                    "the run began on %d process(es) and goes on with %d: same batches, steps and schedule; dropout is "
                    "drawn anew, and sums are rounded in another order",
                    run.processes_then,
                    accelerator.num_processes,
                )
        started -= result.seconds
        if accelerator.is_main_process:
            run.forget_after(result.step)

    if accelerator.device.type == "cpu":
        # the same on all ranks, and in every process that goes on with the run: they add the numbers up
        product_is_fast = all(all_gather_objects(decide_fast_matmul(product_is_fast)))
        decide_fast_matmul(product_is_fast)

    bar = tqdm(
        total=num_steps,
        initial=result.step,
        desc="train",
        mininterval=0.1 if sys.stderr.isatty() else 10.0,  # a log file needs fewer lines
        disable=is_quiet() or not accelerator.is_local_main_process,
    )
    model.train()
    # one flag for the whole process: a Trainer that ended inside a window of accumulation leaves it off, and then no
    # optimizer that Accelerate prepared makes a step
    accelerator.sync_gradients = True
    last_log, last_step, last_wait = time.perf_counter(), result.step, 0.0
    warned_of_nan = False
    with contextlib.closing(Ahead(batches)) as ahead, bar, _Signals() as signals:
        while result.step < num_steps and not result.stopped_early:
            micro_batches = ahead.get(result.step, num_steps)
            if window > 1 and len(micro_batches) != window:
                raise ValueError(
                    f"the optimizer accumulates {window} micro-batches and a step has {len(micro_batches)}: "
                    f"give {window} micro-batches per step, or set accumulation_steps={len(micro_batches)}"
                )
            seen: list[dict[str, float]] = []
            for part in [[batch] for batch in micro_batches] if window > 1 else [micro_batches]:
                with fast_matmul(accelerator.device):
                    metrics = dict(step(part))
                # the one number that is waited for before the step
                value = torch.as_tensor(metrics["loss"], dtype=torch.float32, device=meeting_place)
                metrics["loss"] = float(all_reduce_mean(value))
                if not math.isfinite(metrics["loss"]):
                    _refuse_loss(metrics["loss"], result.step, batches, run)
                if max_grad_norm is not None:
                    metrics["grad_norm"] = accelerator.clip_grad_norm_(model.parameters(), max_grad_norm)
                _step(optimizer, metrics.get("grad_norm"))
                optimizer.zero_grad(set_to_none=True)
                seen.append(_read(metrics))
            if schedule:
                schedule.step()
            result.step += 1
            bar.update()
            means.add({name: sum(metrics[name] for metrics in seen) / len(seen) for name in seen[0]})

            if result.step % log_every == 0 or result.step == num_steps:
                now = time.perf_counter()
                values = means.take()
                values["lr"] = optimizer.param_groups[0]["lr"]
                if batches.steps_per_epoch:
                    values["epoch"] = result.step / batches.steps_per_epoch
                values["steps_per_second"] = (result.step - last_step) / (now - last_log)
                # share of the time in which the step waited for its data
                values["data_wait"] = (ahead.seconds_waited - last_wait) / (now - last_log)
                last_log, last_step, last_wait = now, result.step, ahead.seconds_waited
                shown = {"loss": f"{values['loss']:.4g}", "lr": f"{values['lr']:.2g}"}
                bar.set_postfix(**shown, data_wait=f"{values['data_wait']:.0%}", refresh=False)
                accelerator.log(values, step=result.step)
                if accelerator.is_main_process:
                    run.log({"step": result.step, **values})

            if evaluate and (result.step % evaluate_every == 0 or result.step == num_steps):
                model.eval()
                # the same decision on every rank
                scores = {
                    name: float(all_reduce_mean(torch.tensor(value, dtype=torch.double, device=meeting_place)))
                    for name, value in evaluate().items()
                }
                model.train()
                if monitor not in scores:
                    raise ValueError(f"evaluate returned {', '.join(scores)}, but monitor is {monitor!r}")
                accelerator.log({f"dev/{name}": value for name, value in scores.items()}, step=result.step)
                if accelerator.is_main_process:
                    run.log({"step": result.step, "dev": scores})
                    if not is_quiet():
                        bar.write(f"step {result.step}: " + ", ".join(f"{k} {v:.4f}" for k, v in scores.items()))
                if math.isnan(scores[monitor]) and not warned_of_nan:
                    warned_of_nan = True
                    logger.warning(
                        "the dev score %s is NaN at step %d, which is never the best one: look whether all predictions "
                        "or all labels are equal",
                        monitor,
                        result.step,
                    )
                sign = 1 if greater_is_better else -1
                # false for a NaN
                if sign * scores[monitor] > (-math.inf if result.best_value is None else sign * result.best_value):
                    result.best_step, result.best_value = result.step, scores[monitor]
                    result.evaluations_without_gain = 0
                    save(run.checkpoints / f"best-{result.step:08d}")
                else:
                    result.evaluations_without_gain += 1
                result.stopped_early = patience is not None and result.evaluations_without_gain >= patience
                last_log, last_step, last_wait = time.perf_counter(), result.step, ahead.seconds_waited
                save_all()
            elif result.step % evaluate_every == 0 or (save_every and result.step % save_every == 0):
                save_all()

            if not all_true(signals.received is None, accelerator.device):
                save_all()
                logger.warning("stopped by a signal at step %d; continue with --resume", result.step)
                raise Interrupted(128 + (signals.received or signal.SIGTERM))
    result.seconds = time.perf_counter() - started
    if result.best_step is not None and result.best_step != result.step:
        best = run.checkpoints / f"best-{result.best_step:08d}"
        if run.fetch(best):
            load_checkpoint(best, model=bare)
        else:
            logger.warning(
                "%s is damaged (checksums differ): the weights of the last step, %d, take its place", best, result.step
            )
    model.eval()
    return result


def _read(metrics: dict[str, Any]) -> dict[str, float]:
    """The numbers of a step as floats; those on an accelerator come in one copy."""
    there = [name for name, value in metrics.items() if isinstance(value, Tensor) and value.device.type != "cpu"]
    plain = {name: float(value) for name, value in metrics.items() if name not in there}
    if there:
        values = [metrics[name].detach() for name in there]
        whole = [value.full_tensor() if isinstance(value, DTensor) else value for value in values]
        plain |= dict(zip(there, torch.stack([value.float() for value in whole]).tolist(), strict=True))
    return {name: plain[name] for name in metrics}


def _own(optimizer: Any) -> Any:
    """The optimizer that Accelerate's is around."""
    return optimizer.optimizer if isinstance(optimizer, AcceleratedOptimizer) else optimizer


def _step(optimizer: Any, grad_norm: Any) -> None:
    """A step; an optimizer of ours that looks whether gradients are finite hears it, as from torch's GradScaler."""
    own = _own(optimizer)
    if grad_norm is None or not hasattr(own, "found_inf"):
        optimizer.step()
        return
    if isinstance(grad_norm, Tensor) and grad_norm.device.type != "cpu" and not isinstance(grad_norm, DTensor):
        own.found_inf = (~grad_norm.isfinite()).float()  # on the device, so that the CPU does not wait for it
    else:
        own.found_inf = torch.tensor(float(not math.isfinite(grad_norm)))
    try:
        optimizer.step()
    finally:
        own.found_inf = None


def _accumulation_steps(optimizer: Any, accelerator: Accelerator, max_grad_norm: float | None) -> int:
    """Calls of `optimizer.step` that make one update; refuses what an optimizer that accumulates can't take."""
    own = _own(optimizer)
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        own = getattr(own, "optimizer", own)  # DeepSpeed has one more around it
    steps = getattr(own, "accumulation_steps", 1)
    if steps > 1 or getattr(own, "folds_gradients", False):
        name = type(own).__name__
        if accelerator.distributed_type == DistributedType.DEEPSPEED:
            raise ValueError(
                f"{name} accumulates gradients by itself, and DeepSpeed hands it clipped ones, at steps of its own: "
                "use DDP or FSDP2, or another optimizer and gradient_accumulation_steps in DeepSpeed's configuration"
            )
        if max_grad_norm is not None:
            raise ValueError(f"{name} accumulates gradients by itself: don't clip them here, set max_grad_norm=None")
        if accelerator.scaler is not None:
            raise ValueError(f"{name} accumulates gradients by itself and can't be scaled for fp16: use bf16")
    return steps


def _refuse_loss(loss: float, step: int, batches: Batches, run: RunFolder) -> None:
    rows = list(batches.rows(step))
    shown = ", ".join(str(row) for row in rows[:8]) + (", …" if len(rows) > 8 else "")
    epoch = f"epoch {step // batches.steps_per_epoch}, " if batches.steps_per_epoch else ""
    kept = run.last_whole()
    raise ValueError(
        f"loss is {loss} at step {step} ({epoch}training rows {shown}); "
        + (f"the last good checkpoint is {kept}: " if kept else "no checkpoint was written yet: ")
        + "look at those rows, or lower the learning rate"
    )
