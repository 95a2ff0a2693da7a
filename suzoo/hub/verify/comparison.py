"""Outputs compared with the golden ones."""

from __future__ import annotations

TOLERANCE = 1e-5


def compare(outputs: dict, golden: dict) -> tuple[float, str]:
    """(largest absolute difference, what is wrong or "") of two {tensor name: array} dicts.

    The tolerance is 1e-5 of the largest golden value, and at least 1e-5: the float32 rounding of another batch shape.
    Whole numbers, which are token ids, have none.
    """
    import numpy as np

    if outputs.keys() != golden.keys():
        return float("nan"), f"gave the outputs {sorted(outputs)}, promised are {sorted(golden)}"
    worst, wrong = 0.0, ""
    for name, expected in golden.items():
        actual = np.asarray(outputs[name], dtype=np.float64)
        if actual.shape != expected.shape:
            return float("nan"), f"{name} has shape {actual.shape}, promised is {expected.shape}"
        difference = float(np.abs(actual - expected).max(initial=0.0))
        exact = np.issubdtype(expected.dtype, np.integer)
        allowed = 0.0 if exact else TOLERANCE * max(1.0, float(np.abs(expected).max(initial=0.0)))
        if not difference <= allowed:  # written so that NaN fails
            rows = np.abs(actual - expected).reshape(len(expected), -1).max(axis=1)
            wrong = wrong or f"{name} differs by {difference:.1e} (allowed {allowed:.1e}), most in row {rows.argmax()}"
        worst = max(worst, difference) if difference == difference else difference
    return worst, wrong


def expect_equal(how: str, outputs: dict, expected: dict) -> None:
    """Raise where another way of asking gives another answer.

    Args:
        how: the other way, as "a batch padded on the left".

    Raises:
        ValueError: the outputs differ.
    """
    _, wrong = compare(outputs, expected)
    if wrong:
        raise ValueError(f"{how} is answered otherwise: {wrong}")
