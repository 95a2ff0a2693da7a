"""Score a trained encoder or cross-encoder on pair data: `python training/evaluate.py FOLDER --data a.tsv b.tsv`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro
from transformers import AutoConfig

from suzoo.data import read_pairs
from suzoo.engine import format_scores, run_script
from suzoo.evaluation import pair_cosines, pair_metrics
from suzoo.models import CoSENTCrossEncoder, CoSENTModel
from suzoo.reach import check_folder_or_hub


@dataclass
class Options:
    model: tyro.conf.Positional[str]
    """Folder or Hub name of the model."""
    data: tuple[str, ...]
    """Pair data: files, folders, embedded:<name> or Hub datasets."""
    split: str | None = None
    """Split of each, where they have several."""
    columns: tuple[str, ...] = ()
    """Column names of the data: text1=sentence1 text2=sentence2 score=label."""
    trust_remote_code: bool = False
    """Run Python code that the model brings along. Read it first: it may do whatever you may."""
    max_samples: int | None = None
    """Use only this many rows of each, from the start."""


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    trust = options.trust_remote_code
    check_folder_or_hub(options.model)
    architectures = AutoConfig.from_pretrained(options.model, trust_remote_code=trust).architectures or [""]
    is_cross_encoder = architectures[0].endswith("ForSequenceClassification")
    model = (CoSENTCrossEncoder if is_cross_encoder else CoSENTModel).from_pretrained(
        options.model, trust_remote_code=trust
    )
    scores = {}
    for source in options.data:
        pairs = read_pairs(source, split=options.split, columns=options.columns, max_rows=options.max_samples)
        if is_cross_encoder:
            values = model.predict([(pair.text1, pair.text2) for pair in pairs])
        else:
            values = pair_cosines(model.encode, pairs)
        scores[Path(source).name] = pair_metrics(values, [pair.label for pair in pairs])
    print(format_scores(scores))


if __name__ == "__main__":
    run_script(main)
