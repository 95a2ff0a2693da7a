"""Optimizers: a pure update function and a thin torch.optim.Optimizer each."""

from suzoo.optimizers.accumulated import Accumulated
from suzoo.optimizers.accumulated_adamw import AccumulatedAdamW
from suzoo.optimizers.accumulated_sgd import AccumulatedSGD
from suzoo.optimizers.adafactor import AdaFactor
from suzoo.optimizers.adax import AdaX, AdaXW
from suzoo.optimizers.lion import Lion
from suzoo.optimizers.lora_optimizer import LoRAOptimizer
from suzoo.optimizers.param_groups import param_groups, parameter_kinds
from suzoo.optimizers.parameter_search import ParameterSearch
from suzoo.optimizers.schedules import get_schedule
from suzoo.optimizers.tiger import Tiger

__all__ = [
    "Accumulated",
    "AccumulatedAdamW",
    "AccumulatedSGD",
    "AdaFactor",
    "AdaX",
    "AdaXW",
    "Lion",
    "LoRAOptimizer",
    "ParameterSearch",
    "Tiger",
    "get_schedule",
    "param_groups",
    "parameter_kinds",
]
