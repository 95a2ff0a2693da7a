"""Rows with the same texts, counted exactly by 64-bit hashes: within the training data, and between it and dev data."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from suzoo.data.classes import TEXTS_CLASSES, Classified
from suzoo.data.queries import RANKED, Ranked
from suzoo.data.readers import PAIRS, Pair
from suzoo.data.sequences import DIALOGUES, SOURCES_TARGETS, SourceTarget
from suzoo.data.stored import TEXT, Layout, hashes
from suzoo.distributed import rank

logger = logging.getLogger(__name__)
LAYOUTS: dict[type, Layout] = {
    Pair: PAIRS,
    Classified: TEXTS_CLASSES,
    SourceTarget: SOURCES_TARGETS,
    Ranked: RANKED,
    tuple: DIALOGUES,
    str: TEXT,
}


def texts_of_row(row: Any) -> list[str]:
    """All texts of a row of any reader."""
    return list(LAYOUTS[type(row)].texts(row))


def count_duplicates(train: Sequence[Any], dev: Sequence[Any]) -> tuple[int, int]:
    """(training rows that repeat an earlier one, dev rows that are training rows); labels do not count.

    Args:
        train, dev: of one reader.
    """
    known, of_dev = (hashes(rows, LAYOUTS[type(rows[0])]) for rows in (train, dev))
    known.sort()  # in place: np.unique and np.isin would hold it three times
    places = np.minimum(np.searchsorted(known, of_dev), len(known) - 1)
    return int((known[1:] == known[:-1]).sum()), int((known[places] == of_dev).sum())


def log_duplicates(train: Sequence[Any], dev: Sequence[Any]) -> None:
    """Say on one process how many there are, if any."""
    if rank():
        return
    within, shared = count_duplicates(train, dev)
    if within:
        logger.info("%d of %d training rows repeat the texts of an earlier one", within, len(train))
    if shared:
        logger.warning("%d of %d dev rows have the texts of a training row: dev scores flatter", shared, len(dev))
