"""The state of a LoRAOptimizer by the parameters of the model, as torch and torch.distributed.checkpoint expect it.

The state of an adapted matrix has A, B, and what they are measured from. The inner optimizer's states of A are in it
as "a.momentum" and of B as "b.momentum", or whatever their names. The groups have the number of steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from suzoo.optimizers._lora_adapter import Adapter

State = dict[str, Any]


def state_of_model(inner: State, places: Sequence[Adapter | None], sizes: Sequence[int], num_steps: int) -> State:
    """From the inner optimizer's state_dict; `places` has every parameter's adapter or None, by groups of `sizes`."""
    ids = iter([index for group in inner["param_groups"] for index in group["params"]])
    states: dict[int, State] = {}
    for place, adapter in enumerate(places):
        if adapter is None:
            state = inner["state"].get(next(ids), {})
        else:
            state = adapter.tensors()
            for part in ("a", "b"):
                state |= {f"{part}.{name}": value for name, value in inner["state"].get(next(ids), {}).items()}
        if state:
            states[place] = dict(state)
    groups, first = [], 0
    for group, size in zip(inner["param_groups"], sizes, strict=True):
        groups.append({**group, "params": [*range(first, first + size)], "lora_steps": num_steps})
        first += size
    return {**inner, "state": states, "param_groups": groups}


def state_of_inner(
    state_dict: State, places: Sequence[Adapter | None]
) -> tuple[State, list[tuple[Adapter, State]], int]:
    """The inner optimizer's state_dict, what belongs to every adapter, and the number of steps.

    Raises:
        ValueError: as `LoRAOptimizer.load_state_dict`.
    """
    groups = [dict(group) for group in state_dict["param_groups"]]
    steps = [group.pop("lora_steps", None) for group in groups]
    if None in steps:
        raise ValueError("the checkpoint is not that of a LoRAOptimizer: its groups have no entry 'lora_steps'")
    # JSON makes strings of numbers, and torch.distributed.checkpoint has names
    given = {str(key): state for key, state in state_dict["state"].items()}
    saved_ids = [str(index) for group in groups for index in group["params"]]
    num_saved, num_adapters = (sum("anchor_a" in s for s in given.values()), sum(a is not None for a in places))
    if len(saved_ids) != len(places) or num_saved != num_adapters:
        raise ValueError(f"the checkpoint adapts {num_saved} matrices, this optimizer {num_adapters}")
    adapters: list[tuple[Adapter, State]] = []
    parts: list[State] = []  # the inner optimizer's states, in its order
    places_of: list[list[int]] = []
    for index, adapter in zip(saved_ids, places, strict=True):
        state, first = given.get(index, {}), len(parts)
        if adapter is None:
            parts.append(state)
        else:
            adapters.append((adapter, _checked(adapter, state)))
            parts += [{n[2:]: value for n, value in state.items() if n.startswith(part)} for part in ("a.", "b.")]
        places_of.append([*range(first, len(parts))])
    of_place = iter(places_of)
    for group in groups:
        group["params"] = [index for _ in group["params"] for index in next(of_place)]
    states = {index: part for index, part in enumerate(parts) if part}
    return {**state_dict, "state": states, "param_groups": groups}, adapters, steps[0]


def _checked(adapter: Adapter, state: State) -> State:
    for name, mine in adapter.tensors().items():
        theirs: Tensor | None = state.get(name)
        # a float32 run has no first values; they are found from the weights at the next step
        if name != "first" and (theirs is None or theirs.shape != mine.shape):
            found = "no" if theirs is None else f"{(*theirs.shape,)} as"
            raise ValueError(
                f"the checkpoint has {found} {name!r} of adapted matrix {adapter.number}, this optimizer "
                f"{(*mine.shape,)}: make it with the r and the matrices of the checkpoint"
            )
    return state
