"""What every training script shares: loop, checkpoints, cached gradients, run record. Knows no model and no loss."""

from suzoo.engine.batches import MixedBatches, RandomBatches
from suzoo.engine.cached_gradients import batch_coupled_backward
from suzoo.engine.checkpoint import full_state_dict
from suzoo.engine.folder import RunFolder, check_same_everywhere
from suzoo.engine.loop import Progress, fit
from suzoo.engine.mixture import Mixture
from suzoo.engine.record import format_scores, versions
from suzoo.engine.script import end_training, run_script
from suzoo.engine.stream_batches import StreamBatches
from suzoo.engine.token_batches import TokenBatches
from suzoo.engine.token_mean import token_mean_backward

__all__ = [
    "MixedBatches",
    "Mixture",
    "Progress",
    "RandomBatches",
    "RunFolder",
    "StreamBatches",
    "TokenBatches",
    "batch_coupled_backward",
    "check_same_everywhere",
    "end_training",
    "fit",
    "format_scores",
    "full_state_dict",
    "run_script",
    "token_mean_backward",
    "versions",
]
