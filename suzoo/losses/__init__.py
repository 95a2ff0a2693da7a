"""Losses: functions of scores (or logits) and labels, nothing else."""

from suzoo.losses.cosent import cosent_loss

__all__ = ["cosent_loss"]
