"""Score a trained encoder or cross-encoder on pair data: `python training/evaluate.py FOLDER --data a.tsv b.tsv`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import tyro

from suzoo.reach import check_folder_or_hub, model_folder, why_no_data
from suzoo.terminal import prepare_streams, tell


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


def main() -> int:
    options = tyro.cli(Options, description=__doc__)
    try:
        check_folder_or_hub(options.model)
        for source in options.data:
            if reason := why_no_data(source):
                raise ValueError(reason)
    except ValueError as error:
        prepare_streams(escape=True)
        return tell(error)
    from suzoo.engine import run_script  # it loads torch, so the names are known to be right by then

    run_script(partial(evaluate, options))
    return 0


def evaluate(options: Options) -> None:
    """All data are read before the first are scored."""
    from transformers import AutoConfig

    from suzoo.data import read_pairs
    from suzoo.engine import format_scores
    from suzoo.evaluation import pair_cosines, pair_metrics
    from suzoo.models import CoSENTCrossEncoder, CoSENTModel

    data = {
        source: read_pairs(source, split=options.split, columns=options.columns, max_rows=options.max_samples)
        for source in options.data
    }
    folder, trust = model_folder(options.model), options.trust_remote_code
    architectures = AutoConfig.from_pretrained(folder, trust_remote_code=trust).architectures or [""]
    is_cross_encoder = architectures[0].endswith("ForSequenceClassification")
    kind = CoSENTCrossEncoder if is_cross_encoder else CoSENTModel
    model = kind.from_pretrained(folder, trust_remote_code=trust)
    names = [Path(source).name for source in data]
    scores = {}
    for source, pairs in data.items():
        if is_cross_encoder:
            values = model.predict([(pair.text1, pair.text2) for pair in pairs])
        else:
            values = pair_cosines(model.encode, pairs)
        name = Path(source).name
        scores[source if names.count(name) > 1 else name] = pair_metrics(values, [pair.label for pair in pairs])
    print(format_scores(scores))


if __name__ == "__main__":
    sys.exit(main())
