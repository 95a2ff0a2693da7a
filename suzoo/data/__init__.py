"""Data: text to batches. Readers of files, folders and Hub datasets, embedded corpora, tokenizers from a corpus."""

from suzoo.data._errors import DataError
from suzoo.data.fingerprints import fingerprint
from suzoo.data.readers import Pair, Ranked, check_labels, parse_columns, read_pairs, read_ranked, read_rows, read_texts

__all__ = [
    "DataError",
    "Pair",
    "Ranked",
    "check_labels",
    "fingerprint",
    "parse_columns",
    "read_pairs",
    "read_ranked",
    "read_rows",
    "read_texts",
]
