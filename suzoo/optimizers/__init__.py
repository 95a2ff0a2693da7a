"""Optimizers: a pure update function and a thin torch.optim.Optimizer each."""

from suzoo.optimizers.param_groups import param_groups, parameter_kinds
from suzoo.optimizers.schedules import get_schedule

__all__ = ["get_schedule", "param_groups", "parameter_kinds"]
