"""Several losses or gradients made into one."""

from suzoo.multitask.backward import automatic_weight_decay, multitask_backward
from suzoo.multitask.gradient_weighting import inverse_gradient_norm, min_norm, pcgrad, primary_auxiliary
from suzoo.multitask.loss_weighting import InitialLoss, generalized_mean, geometric_mean, label_entropy, running_loss

__all__ = [
    "InitialLoss",
    "automatic_weight_decay",
    "generalized_mean",
    "geometric_mean",
    "inverse_gradient_norm",
    "label_entropy",
    "min_norm",
    "multitask_backward",
    "pcgrad",
    "primary_auxiliary",
    "running_loss",
]
