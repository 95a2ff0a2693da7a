"""The losses on sentence vectors in one table: what data each needs, and whom to cite. `losses.choose_loss` makes them.

| --loss | data | script |
|---|---|---|
| cosent, angle | pairs with grades | train_cosent.py, train_two_tasks.py |
| sbert | pairs with grades, cut into two classes | train_cosent.py |
| info_nce, flat_nce | queries with positives, maybe with hard negatives; or plain texts | train_contrastive.py |
| supcon, am_softmax | texts with a class each | train_contrastive.py |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class LossFacts:
    data: Literal["graded pairs", "queries", "classes"]
    """What an example is."""
    citations: tuple[str, ...]
    """Names that `suzoo.losses.citations.cite` knows."""
    over_step: bool = True
    """It compares the examples of a whole step; else it is a mean over examples."""


SENTENCE_LOSSES = {
    "cosent": LossFacts("graded pairs", ("cosent_loss",)),
    "angle": LossFacts("graded pairs", ("cosent_loss", "angle_scores")),
    "sbert": LossFacts("graded pairs", ("SoftmaxPairLoss",), over_step=False),
    "info_nce": LossFacts("queries", ("contrastive_loss",)),
    "flat_nce": LossFacts("queries", ("flat_nce_loss",)),
    "supcon": LossFacts("classes", ("supcon_loss",)),
    "am_softmax": LossFacts("classes", ("am_softmax_loss",), over_step=False),
}
