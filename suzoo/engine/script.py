"""How a script begins and ends: one sentence for what a user can get wrong, on every process; a clean exit."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
from collections.abc import Callable

from accelerate import Accelerator

from suzoo.chinese import local
from suzoo.distributed import leave_word, word_of_another, world_size
from suzoo.engine import lock
from suzoo.terminal import is_full_disk, is_mistake, is_quiet, prepare_streams, sentence


def end_training(accelerator: Accelerator) -> None:
    """Close the trackers; the process group stays for `run_script` to leave behind.

    `Accelerator.end_training` would destroy it. Its last owner is then the DDP module, which dies with the GIL held
    and waits for gloo's threads. One of these may want the GIL to free a tensor: one process in some hundred runs
    hung.
    """
    for tracker in accelerator.trackers:
        tracker.finish()


def end_with_launcher() -> None:
    """Be told to stop (SIGTERM) when `accelerate launch` or torchrun ends that started this process. Linux only.

    Accelerate's launcher of one process dies of a signal without passing it on, and torchrun of SIGKILL, as when memory
    is short: the run would go on with nobody to wait for it.
    """
    alone = "ACCELERATE_MIXED_PRECISION" in os.environ and "RANK" not in os.environ
    if sys.platform == "linux" and (alone or "TORCHELASTIC_RUN_ID" in os.environ):
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
        if os.getppid() == 1:  # it ended before
            os.kill(os.getpid(), signal.SIGTERM)


def run_script(main: Callable[[], None]) -> None:
    """Run a script's `main`; a user's mistake (ValueError, OSError) becomes one sentence and exit code 2.

    One process of several leaves without Python's clean-up, in which the threads of a process group may abort or hang.
    The environment variable SUZOO_TRACEBACK=1 shows the traceback instead.
    """
    end_with_launcher()
    prepare_streams(escape=True)  # an ASCII terminal shows Chinese as escapes
    is_second = os.environ.get("LOCAL_RANK", "0") != "0"  # of this machine: its notes are those of the first
    logging.basicConfig(level=logging.WARNING if is_quiet() or is_second else logging.INFO, format="%(message)s")
    for noisy in ("httpx", "httpx2", "datasets", "accelerate"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    process = f" (process {os.environ.get('RANK', '?')})" if several else ""
    code = 0
    try:
        main()
    except KeyboardInterrupt:
        print(f"{local('interrupted')}{process}", file=sys.stderr, flush=True)
        code = 130
    except Exception as error:
        if os.environ.get("SUZOO_TRACEBACK") == "1":
            raise
        mistake = is_mistake(error)
        message = sentence(error) if mistake else f"{type(error).__name__}: {error}"
        if mistake and is_full_disk(message):
            message += "; make room, then go on with --resume in place of --overwrite"
        told = None if mistake else word_of_another()  # a lost connection is no reason: that rank knew one
        if told is None:
            leave_word(message)
        if told is None and not mistake:
            raise
        print(f"error{process}: {told or local(message)}", file=sys.stderr, flush=True)
        code = 2
    finally:
        lock.release_all()
    if world_size() > 1:
        # gloo's threads abort a process that just ends, and may hang one that destroys the group, see `end_training`
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    if code:
        sys.exit(code)
