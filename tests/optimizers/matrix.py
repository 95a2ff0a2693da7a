"""Compares the conformance matrix of docs/optimizers.md with a test run that contained all of it.

tests/conftest.py makes these two functions pytest's hooks: where tests run in several processes, the one that hears of
all of them reads no conftest of a deeper folder.

SUZOO_WRITE_MATRIX=1 pytest tests/optimizers/test_conformance.py tests/optimizers/test_sharded.py     # writes it
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from pathlib import Path

from tests.optimizers._cases import CASES

DOCUMENT = Path(__file__).parents[2] / "docs" / "optimizers.md"
START, END = "<!-- matrix: see tests/optimizers/matrix.py -->", "<!-- end of matrix -->"
PROMISES = {
    "test_exact_resume": "resumes to the same bits, also mid-window; fp32, bf16, fp16",
    "test_state_is_tensors_and_json": "state is tensors and JSON (`weights_only=True`)",
    "test_state_is_float32_for_low_precision_parameters": "fp32 state for bf16 parameters, kept when loaded",
    "test_loading_copies_the_state": "loading copies",
    "test_a_copy_goes_on_alone": "deepcopy and pickle",
    "test_several_groups_are_separate_optimizers": "several groups",
    "test_a_missing_gradient_is_a_step_that_did_not_happen": "gradients None on some steps",
    "test_zero_gradients_change_nothing": "zero gradients change nothing",
    "test_every_shape_moves": "0-d, 1-d, 2-d, convolution, empty",
    "test_low_precision_follows_float32": "bf16 and fp16 parameters follow fp32",
    "test_small_updates_reach_bfloat16": "small updates reach bf16 (Kahan, master, stochastic), or one warning",
    "test_master_is_float32_training": "bf16 and fp16 parameters with an fp32 master equal fp32 to the bit",
    "test_set_to_none_makes_no_difference": "`set_to_none` both ways",
    "test_unknown_keyword_raises": "unknown keyword raises `TypeError`",
    "test_the_schedule_drives_the_update": "the schedule drives the update",
    "test_closure_is_called_with_gradients_on": "closure",
    "test_sparse_and_complex_are_refused": "sparse and complex refused with a sentence",
    "test_a_refused_step_changes_nothing": "a refused step changes nothing",
    "test_low_parts_follow_the_parameters_dtype": "a bf16 run with Kahan or master goes on in fp32, and back",
    "test_stochastic_rounding_is_the_same_on_all_ranks_and_after_resume": "stochastic rounding: equal on all ranks",
    "test_foreach_is_the_plain_form": "foreach equals the plain form",
    "test_compile_is_the_plain_form": "compiled equals the plain form, no recompilation after warm-up",
    "test_fsdp2_equals_unsharded": "FSDP2 equals unsharded (element-wise rules: same bits)",
    "test_distributed_checkpoint_resumes": "distributed checkpoint resumes to the same bits",
    "test_ddp_equals_one_process": "DDP equals one process",
}
outcomes: dict[tuple[str, str], list[str]] = defaultdict(list)


def pytest_runtest_logreport(report):
    match = re.search(r"test_(?:conformance|sharded)\.py::(\w+)\[(.*)\]$", report.nodeid)
    if match is None or (report.when != "call" and report.passed):
        return
    name = next((name for name in sorted(CASES, key=len, reverse=True) if match[2].endswith(name)), None)
    if name is not None:
        outcomes[match[1], name].append(report.outcome)


def pytest_sessionfinish(session):
    # users cannot import Signum; of what accumulates, the columns are about accumulation
    names = [name for name in CASES if name not in ("Signum", "AccumulatedSGD", "AccumulatedAdamW")]
    cells = [(promise, name) for promise in PROMISES for name in names]
    if not DOCUMENT.exists() or not all(cell in outcomes for cell in cells):
        return  # a partial run says nothing about the rest
    mark = {"passed": "✓", "skipped": "–"}
    lines = [f"| | {' | '.join(names)} |", f"|---|{':-:|' * len(names)}"]
    for promise, text in PROMISES.items():
        row = [set(outcomes[promise, name]) for name in names]
        lines.append(f"| {text} | {' | '.join(mark.get(r.pop(), '✗') if len(r) == 1 else '✗' for r in row)} |")
    before, rest = DOCUMENT.read_text().split(START)
    text = before + START + "\n" + "\n".join(lines) + "\n" + END + rest.split(END)[1]
    if text == DOCUMENT.read_text():
        return
    if os.environ.get("SUZOO_WRITE_MATRIX"):
        DOCUMENT.write_text(text)
    else:
        print(f"\n{DOCUMENT.name}: the matrix is not that of this run; SUZOO_WRITE_MATRIX=1 writes it")
        session.exitstatus = 1
