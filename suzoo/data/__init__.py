"""Data: text to batches. Readers of files, folders and Hub datasets, embedded corpora, tokenizers from a corpus."""

from suzoo.data._errors import DataError
from suzoo.data.confusions import read_confusions
from suzoo.data.fingerprints import describe, fingerprint
from suzoo.data.flat import flat_batch
from suzoo.data.mlm import encode_words, masked_batch, segment_chinese
from suzoo.data.readers import Pair, Ranked, check_labels, parse_columns, read_pairs, read_ranked, read_rows, read_texts
from suzoo.data.sequences import SourceTarget, read_dialogues, read_seq2seq
from suzoo.data.token_batches import TokenBatches
from suzoo.data.tokenizer import train_unigram, train_wordpiece

__all__ = [
    "DataError",
    "Pair",
    "Ranked",
    "SourceTarget",
    "TokenBatches",
    "check_labels",
    "describe",
    "encode_words",
    "fingerprint",
    "flat_batch",
    "masked_batch",
    "parse_columns",
    "read_confusions",
    "read_dialogues",
    "read_pairs",
    "read_ranked",
    "read_rows",
    "read_seq2seq",
    "read_texts",
    "segment_chinese",
    "train_unigram",
    "train_wordpiece",
]
