"""Parameters that are alike, updated as one on an accelerator, where a launch costs more than a small tensor's sums.

Tensors of one shape are stacked, a rule's plain form runs on all of them at once (`torch.vmap`), and the results go
back to where they belong. BERT-base has 199 parameters and nine shapes. `Rule.foreach` needs no such detour.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from suzoo.optimizers._rule import Job
from suzoo.optimizers._tensors import local

STACK = 1 << 24  # elements of a stack at most: copies of it exist while its rule runs


def can_stack(job: Job) -> bool:
    """A CPU has no launches to save: there only what a rule asks for is stacked."""
    param, rule = job.param, job.rule
    most = rule.stack_up_to if param.device.type == "cpu" else STACK // 2
    return (
        job.group["foreach"] is not False
        and 0 < local(param).numel() <= most
        and not (rule.needs_matrices and isinstance(param, DTensor))
    )


def stacks(jobs: Iterable[Job]) -> Iterator[list[Job]]:
    """Jobs that `run_stacked` takes together."""
    alike: dict[tuple, list[Job]] = {}
    for job in jobs:
        alike.setdefault(_likeness(job), []).append(job)
    for some in alike.values():
        most = max(1, STACK // local(some[0].param).numel())
        yield from (some[start : start + most] for start in range(0, len(some), most))


def run_stacked(jobs: list[Job], function: Callable[[Job], Any], *, moves: bool) -> None:
    """`function` of each job, which changes its tensors in place; one call for all of them.

    Args:
        jobs: as `stacks` gives them.
        moves: whether it changes parameters, or states alone.
    """
    first = jobs[0]
    if len(jobs) == 1:
        function(first)
        return
    columns = _columns(jobs, moves)
    stacked = {name: torch.stack(column) for name, column in columns.items()}

    def of_one(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        param, grad = tensors.get("param", first.param), tensors.get("grad")
        states = {name: tensors[name] for name in first.states}
        function(replace(first, param=param, grad=grad, states=states, state={**first.state, **tensors}))
        return tensors

    torch.vmap(of_one, randomness="different")(stacked)
    for name, stack in stacked.items():
        if name != "grad":
            torch._foreach_copy_(columns[name], list(stack.unbind()))


def _likeness(job: Job) -> tuple:
    """Equal for jobs whose tensors are alike in number, shape, dtype and device, and whose arguments are the same."""
    param, folded = local(job.param), job.state.get("folded")
    return (
        *(id(job.group), id(job.arguments), None if folded is None else float(folded), "compensation" in job.state),
        *(param.shape, param.dtype, param.device, None if job.grad is None else job.grad.dtype),
        *[(state.shape, state.dtype) for state in job.states.values()],
    )


def _columns(jobs: list[Job], moves: bool) -> dict[str, list[Tensor]]:
    """This rank's parts of all that the jobs read and write; without `moves` not what is the parameter's."""
    first = jobs[0]
    columns = {name: [job.states[name] for job in jobs] for name in first.states}
    others = [*first.rule.counters, *(["compensation"] if moves else [])]
    columns |= {name: [job.state[name] for job in jobs] for name in others if name in first.state}
    if moves:
        columns["param"] = [job.param for job in jobs]
    if first.grad is not None:
        columns["grad"] = [job.grad for job in jobs if job.grad is not None]
    return {name: [local(tensor) for tensor in column] for name, column in columns.items()}
