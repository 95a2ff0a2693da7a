"""On an accelerator a training step waits three times at most, and launches no more than it did.

A real one is not needed: see `tests/pretended.py`. `python -m tests.waits` prints where the waits are.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import warnings
from pathlib import Path

import pytest

from tests.ranks import fork

MOST_WAITS = 3  # the loss, the numbers to log, and one that transformers looks at its mask with
PAIRS = ["--batch-size", "8"]
# recipe and flags, and the launches of a step with two layers, on 2026-11-28. CoSENT waited 19 times before, with fgm
# 35, in four micro-batches 63
CASES: dict[str, tuple[list[str], int]] = {
    "cosent": (["quickstart", *PAIRS], 318),
    "cosent, R-Drop": (["quickstart", *PAIRS, "--rdrop", "1"], 431),
    "cosent, fgm": (["quickstart", *PAIRS, "--fgm", "1"], 597),
    "cosent, vat": (["quickstart", *PAIRS, "--vat", "1"], 941),
    "cosent, micro-batches": (["quickstart", *PAIRS, "--micro-batches", "4"], 1410),
    "contrastive": (["quickstart", *PAIRS], 290),
    "cross_encoder": (["quickstart", *PAIRS, "--model", "None"], 272),
    "classifier": (["quickstart", *PAIRS, "--max-train-samples", "600"], 222),
    "unilm": (["quickstart"], 236),
    "dialogpt": (["scratch"], 211),
    "tta": (["quickstart"], 248),
    "two_tasks": (["quickstart", *PAIRS], 248),
    "encode": ([], 100),
    "unilm, chunks": (["quickstart", "--chunk-size", "64"], 440),
    # 97 tensors of five shapes, two micro-steps
    "lazy_adamw": ([], 359),
    "AccumulatedAdamW, k=2": ([], 276),
    "AdaFactor": ([], 417),
    "AdaX, bf16": ([], 323),
    "Lion, bf16 kahan": ([], 313),
    "Tiger": ([], 357),
    "Tiger, k=2": ([], 501),
    "Accumulated": ([], 211),
    "ParameterSearch": ([], 16663),
    "losses": ([], 598),
    "multitask_backward": ([], 194),
}


def count(cases: list[str], said: Path) -> None:
    """`python -m tests.waits CASES` in this process, which keeps the device; what it prints goes to `said`."""
    with said.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    warnings.simplefilter("ignore")
    sys.argv = ["waits", *cases]
    importlib.import_module("tests.waits").main()


def check(cases: list[str], said: Path) -> None:
    process = fork(count, cases, said)
    process.join()
    assert process.exitcode == 0, said.read_text()[-2000:]
    steps = [json.loads(line) for line in said.read_text().splitlines() if line.startswith('{"case"')]
    assert [step["case"] for step in steps] == cases
    for step in steps:
        assert step["waits"] <= MOST_WAITS, step
        assert step["launches"] <= 1.1 * CASES[step["case"]][1], step


def test_a_step_waits_three_times_at_most(tmp_path):
    cases = ["encode", "cosent, micro-batches", "unilm", "losses", "multitask_backward", "lazy_adamw", "Tiger, k=2"]
    check(cases, tmp_path / "said")


@pytest.mark.slow
def test_no_script_waits_more(tmp_path):
    check(list(CASES), tmp_path / "said")
