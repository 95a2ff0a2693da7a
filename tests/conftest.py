"""Every test runs offline, in its own cache for remote code, on few threads."""

from __future__ import annotations

import os
import tempfile

_home = tempfile.mkdtemp(prefix="suzoo-tests-")
# read when huggingface_hub is imported, so before anything imports it; subprocesses inherit them
os.environ.update(
    HF_HOME=_home,
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    TOKENIZERS_PARALLELISM="false",
    OMP_NUM_THREADS="1",  # tiny models lose more to threads than they gain
)

import pytest  # noqa: E402
import torch  # noqa: E402


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
