"""Chinese spelling correction, judged by whole sentences as in the SIGHAN tables."""

from __future__ import annotations

from collections.abc import Sequence


def spelling_scores(sources: Sequence[str], predictions: Sequence[str], targets: Sequence[str]) -> dict[str, float]:
    """`detection_` and `correction_` `precision`, `recall` and `f1`, and `false_alarm`.

    A sentence with errors is detected if exactly its wrong characters were changed, and corrected if the prediction is
    the target. Precision is over the sentences that were changed, recall over those that have errors; a ratio of
    nothing is 0. `false_alarm` is the share of sentences without errors that were changed.

    Args:
        sources: (n,) sentences as they were written.
        predictions: (n,) after correction by the model; one whose length differs counts as changed, and wrong.
        targets: (n,) the right sentences, as long as their sources: spelling keeps the number of characters.

    Raises:
        ValueError: unequal numbers, none at all, or a target whose length is not that of its source.
    """
    if not len(sources) == len(predictions) == len(targets) > 0:
        raise ValueError(
            "there must be as many predictions and targets as sources and one at least, "
            f"not {len(predictions)} and {len(targets)} for {len(sources)}"
        )
    num_changed = num_wrong = num_detected = num_corrected = num_alarms = 0
    for number, (source, prediction, target) in enumerate(zip(sources, predictions, targets, strict=True)):
        if len(source) != len(target):
            raise ValueError(f"target {number} has {len(target)} characters, its source {len(source)}")
        changed, wrong = prediction != source, target != source
        num_changed += changed
        num_wrong += wrong
        num_alarms += changed and not wrong
        num_detected += wrong and _differences(source, prediction) == _differences(source, target)
        num_corrected += wrong and prediction == target
    scores = {}
    for name, hits in (("detection", num_detected), ("correction", num_corrected)):
        scores[f"{name}_precision"] = hits / num_changed if num_changed else 0.0
        scores[f"{name}_recall"] = hits / num_wrong if num_wrong else 0.0
        scores[f"{name}_f1"] = 2 * hits / (num_changed + num_wrong) if hits else 0.0
    num_right = len(sources) - num_wrong
    return {**scores, "false_alarm": num_alarms / num_right if num_right else 0.0}


def _differences(source: str, other: str) -> list[int] | None:
    """Positions at which `other` differs; None if it is of another length."""
    if len(source) != len(other):
        return None
    return [position for position, pair in enumerate(zip(source, other, strict=True)) if pair[0] != pair[1]]
