"""Train a tokenizer for a model that starts from scratch; the folder loads through AutoTokenizer.

python training/train_tokenizer.py --data corpus.txt.gz --vocab-size 13000 --output-dir out/tokenizer
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import recipes  # noqa: F401  before torch: it hears -q

import tyro


@dataclass(frozen=True)
class Settings:
    output_dir: Path
    """New folder for the tokenizer."""
    data: str = "embedded:pairs_zh"
    """Lines of a .txt file, a table with a column `text` or with sentence pairs, a folder, or a Hub dataset."""
    split: str | None = None
    """Split of a folder, a Hub dataset or an embedded corpus; train if not given."""
    columns: tuple[str, ...] = ()
    """text=<column> where the texts are in another column."""
    kind: Literal["wordpiece", "unigram"] = "wordpiece"
    """wordpiece: BERT's, Chinese characters one by one. unigram: sentencepiece's, pieces may be Chinese words."""
    vocab_size: int = 8000
    """Largest number of tokens."""
    lowercase: bool = True
    """Fold case."""
    model_max_length: int = 512
    """Length to which truncation=True cuts: the number of positions of the model."""
    skip_bad_rows: bool = False
    """Leave bad rows out and say how many, instead of stopping at the first."""
    max_rows: int | None = None
    """Read only this many rows."""
    overwrite: bool = False
    """Write into a folder that is not empty."""
    quiet: Annotated[bool, tyro.conf.arg(aliases=["-q"])] = False
    """No progress bars and no notes; warnings, errors and results stay."""


def main(settings: Settings) -> None:
    from suzoo.data import DataError, read_texts, save_tokenizer, train_unigram, train_wordpiece  # not for --help

    folder = settings.output_dir
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not settings.overwrite)):
        raise DataError(f"{folder} exists and is not an empty folder: choose another --output-dir, or --overwrite")

    texts = read_texts(
        settings.data,
        split=settings.split,
        columns=settings.columns,
        skip_bad_rows=settings.skip_bad_rows,
        max_rows=settings.max_rows,
    )
    train = {"wordpiece": train_wordpiece, "unigram": train_unigram}[settings.kind]
    tokenizer = train(
        texts,
        vocab_size=settings.vocab_size,
        lowercase=settings.lowercase,
        model_max_length=settings.model_max_length,
    )

    save_tokenizer(tokenizer, folder)

    sample = texts[:1000]
    ids = [token for text in sample for token in tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]]
    print(
        f"{len(tokenizer)} tokens from {len(texts)} texts; on the first {len(sample)}: "
        f"{len(ids) / sum(map(len, sample)):.3f} tokens per character, {ids.count(tokenizer.unk_token_id)} unknown"
    )
    print(f"saved in {folder}")


if __name__ == "__main__":
    given = tyro.cli(Settings, description=__doc__)
    from suzoo.engine import run_script

    run_script(lambda: main(given))
