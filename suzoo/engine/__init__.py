"""What every training script shares: loop, checkpoints, cached gradients, run record. Knows no model and no loss."""

from suzoo.engine.batches import MixedBatches, RandomBatches
from suzoo.engine.cached_gradients import batch_coupled_backward
from suzoo.engine.checkpoint import full_state_dict
from suzoo.engine.loop import FitResult, fit
from suzoo.engine.record import RunFolder, end_training, run_script
from suzoo.engine.token_mean import token_mean_backward

__all__ = [
    "FitResult",
    "MixedBatches",
    "RandomBatches",
    "RunFolder",
    "batch_coupled_backward",
    "end_training",
    "fit",
    "full_state_dict",
    "run_script",
    "token_mean_backward",
]
