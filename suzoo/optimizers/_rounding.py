"""What a step does about rounding: a warning where low-precision weights stand still, and the noise of "stochastic"."""

from __future__ import annotations

import contextlib
from collections.abc import Generator

import torch
from torch import Tensor

from suzoo.optimizers._compiled import warn
from suzoo.optimizers._rule import Job
from suzoo.optimizers._tensors import compute_dtype, local

Watched = list[tuple[Job, Tensor]]


def low_precision_matrices(jobs: list[Job]) -> Watched:
    """At steps 1, 10, 100 and 1000, a low-precision matrix of every group that rounds to nearest, with its values."""
    watched: dict[int, tuple[Job, Tensor]] = {}
    for job in jobs:
        param, group = job.param, job.group
        if group["rounding"] != "nearest" or param.dtype == compute_dtype(param) or id(group) in watched:
            continue
        matrix = group["lr"] > 0 and param.dim() > 1 and local(param).numel() > 0
        if matrix and job.state["step"].item() in (1, 10, 100, 1000):
            watched[id(group)] = job, local(param).clone()
    return list(watched.values())


def warn_of_rounding(name: str, watched: Watched) -> bool:
    """Say so, once, if most of a matrix did not move."""
    for job, before in watched:
        # gradients that were folded into the state are gone: then every element should have moved
        asked = torch.ones_like(before, dtype=torch.bool) if job.grad is None else local(job.grad).ne(0)
        moved = (local(job.param).ne(before) & asked).sum().item()
        if moved < 0.5 * asked.sum().item():
            warn(
                f"{name} with lr {job.group['lr']:g} left most elements of a {before.dtype} parameter of shape "
                f"{(*job.param.shape,)} unchanged: the updates are smaller than its precision. Use rounding='kahan', "
                "'master' or 'stochastic', or float32 parameters with autocast"
            )
            return True
    return False


@contextlib.contextmanager
def noise_of_step(jobs: list[Job]) -> Generator[None]:
    """Random numbers that follow from the step: copies of the weights on several ranks round alike, and a resumed run
    as the one that was not interrupted. The generators of the caller stay as they are."""
    if not any(job.group["rounding"] == "stochastic" for job in jobs):
        yield
        return
    from suzoo.models._devices import replayed, seed_generator  # with transformers behind it, which others need not pay

    seed = int(jobs[0].state["step"])
    with contextlib.ExitStack() as stack:
        for device in {job.param.device for job in jobs}:
            stack.enter_context(replayed(device))
            seed_generator(device, seed)
        torch.default_generator.manual_seed(seed)
        yield
