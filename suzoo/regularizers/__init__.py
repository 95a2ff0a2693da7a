"""Regularizers: what needs a second forward pass, or disturbs weights or inputs during a step."""
