"""Who may read weights that were saved."""

from __future__ import annotations

import stat
from pathlib import Path


def share_weights(folder: str | Path, pattern: str = "*model*.safetensors") -> None:
    """Let those read weights just written who may read the JSON beside them, which Python wrote.

    safetensors 0.8 leaves its files to their owner alone, whatever the umask says
    (github.com/safetensors/safetensors/issues/782): a server that runs as another user cannot open them.
    """
    beside = next(Path(folder).glob("*.json"), None)
    if beside is not None:
        for weights in Path(folder).glob(pattern):
            weights.chmod(stat.S_IMODE(beside.stat().st_mode))
