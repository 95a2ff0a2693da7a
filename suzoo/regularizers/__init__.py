"""Regularizers: what needs a second forward pass, or disturbs weights or inputs during a step."""

from suzoo.regularizers.adversarial import fgm, pgd
from suzoo.regularizers.gradient_penalty import gradient_penalty
from suzoo.regularizers.gradient_routing import frozen_call, one_loss_gan, reverse_gradient, scale_gradient
from suzoo.regularizers.noise import embedding_noise
from suzoo.regularizers.random_replacement import random_replacement
from suzoo.regularizers.rdrop import repeat_rows
from suzoo.regularizers.vat import vat_loss
from suzoo.regularizers.weissi import weissi_penalty

__all__ = [
    "embedding_noise",
    "fgm",
    "frozen_call",
    "gradient_penalty",
    "one_loss_gan",
    "pgd",
    "random_replacement",
    "repeat_rows",
    "reverse_gradient",
    "scale_gradient",
    "vat_loss",
    "weissi_penalty",
]
