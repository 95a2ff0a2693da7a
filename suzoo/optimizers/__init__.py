"""Optimizers: a pure update function and a thin torch.optim.Optimizer each."""
