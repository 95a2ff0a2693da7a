"""Run a function on real gloo processes: `results = run_ranks(function, *args, world_size=2)`.

`function(*args)` must be importable (top level of its test module). It runs with an initialised process group; what it
returns comes back as a list in rank order. The processes are forked from a server that has the slow imports behind it.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from pathlib import Path

import torch
import torch.distributed as dist

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["torch.distributed.fsdp", "accelerate", "suzoo.models"])


def free_port() -> int:
    """One at which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _run(function: Callable, args: tuple, rank: int, world_size: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size)
    )
    try:
        dist.init_process_group("gloo", rank=rank, world_size=world_size)
        dist.barrier()  # a rank that is done at once would close its connections while another still makes them
        torch.save(function(*args), Path(folder) / f"{rank}.pt")
    except BaseException:
        (Path(folder) / f"{rank}.err").write_text(traceback.format_exc())
        os._exit(1)  # a peer may wait for this rank in a collective: do not join it
    dist.destroy_process_group()


def fork(function: Callable, *args) -> BaseProcess:
    """A process that runs `function(*args)`; torch is imported in it already."""
    process = _context.Process(target=function, args=args)
    process.start()
    return process


def event() -> Event:
    """One that such a process sets."""
    return _context.Event()


def run_ranks(function: Callable, *args, world_size: int = 2, timeout: float = 120) -> list:
    """Results of `function(*args)` on `world_size` gloo ranks, in rank order; a rank's exception is raised here."""
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        processes = [
            _context.Process(target=_run, args=(function, args, rank, world_size, port, folder))
            for rank in range(world_size)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(timeout)
        for process in processes:
            process.kill()
        errors = [path.read_text() for path in sorted(Path(folder).glob("*.err"))]
        if errors:
            raise AssertionError("\n".join(errors))
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(world_size)]
