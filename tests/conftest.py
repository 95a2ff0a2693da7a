"""Every test runs offline, in its own cache for remote code, on one thread; the whole suite in one process per core."""

from __future__ import annotations

import os
import shutil
import tempfile

_home = tempfile.mkdtemp(prefix="suzoo-tests-")
# read when huggingface_hub is imported, so before anything imports it; subprocesses inherit them
os.environ.update(
    HF_HOME=_home,
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    TOKENIZERS_PARALLELISM="false",
    LANGUAGE="en",  # also where the developer's locale is Chinese
    OMP_NUM_THREADS="1",  # tiny models lose more to threads than they gain
)

import pytest  # noqa: E402
import torch  # noqa: E402

from tests.optimizers.matrix import pytest_runtest_logreport, pytest_sessionfinish  # noqa: E402, F401

MOST_WORKERS = 4  # each holds more than a gigabyte


def pytest_unconfigure():
    shutil.rmtree(_home, ignore_errors=True)  # a process that a test left behind may still write


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    """`pytest` takes a worker per core where pytest-xdist is installed; named files run in this process."""
    whole = config.args_source is config.ArgsSource.TESTPATHS and "PYTEST_XDIST_WORKER" not in os.environ
    if whole and config.getoption("numprocesses", 0) is None and not config.getoption("usepdb"):
        # contiguous halves, so that what a folder shares is mostly made once; who is done takes from the other's end
        config.option.numprocesses, config.option.dist = min(os.cpu_count() or 1, MOST_WORKERS), "worksteal"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """The longest tests first, or a worker has one left when the other is done."""
    items.sort(key=lambda item: "tests/training/" not in item.nodeid)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
