"""Open a saved model through every door it promises, where suzoo cannot be imported, and compare with the golden file.

This folder imports nothing of suzoo and runs as it is: `python suzoo/hub/verify FOLDER`. Exit code 0: every door that
could be opened gave the golden numbers. 1: some door did not. 2: the folder cannot be checked at all.

The doors are opened in one fresh process with an empty cache, no network, no stdin and no tokens, in which importing
suzoo raises. Code in the folder runs only where it is byte for byte suzoo's own, or with --trust-remote-code.
What is promised, the inputs and the expected outputs are in `golden.safetensors` (see `suzoo.hub.golden`).
"""

from .check import Door, check_door, check_promised_door, format_table, passed
from .comparison import TOLERANCE, compare
from .doors import STOCK_CONFIG_REMOTE_CODE, WAYS, Way, unmet
from .golden_file import GOLDEN_FILE, read_golden, read_promise
from .process import run_apart, time_limit, verify

__all__ = [
    "GOLDEN_FILE",
    "STOCK_CONFIG_REMOTE_CODE",
    "TOLERANCE",
    "WAYS",
    "Door",
    "Way",
    "check_door",
    "check_promised_door",
    "compare",
    "format_table",
    "passed",
    "read_golden",
    "read_promise",
    "run_apart",
    "time_limit",
    "unmet",
    "verify",
]
