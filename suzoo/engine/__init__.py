"""What every training script shares: loop, checkpoints, cached gradients. Knows no model and no loss."""
