"""The device of these tests: CUDA, or with SUZOO_GPU_TESTS_ON=cpu a CPU, where they show that they are right."""

from __future__ import annotations

import os

import pytest
import torch


@pytest.fixture(scope="session")
def device() -> torch.device:
    wanted = os.environ.get("SUZOO_GPU_TESTS_ON", "cuda")
    if wanted == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no GPU here; SUZOO_GPU_TESTS_ON=cpu runs these tests without")
    return torch.device(wanted)
