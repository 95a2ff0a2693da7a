"""Data: text to batches. Readers of files, folders and Hub datasets, embedded corpora, tokenizers from a corpus."""

from suzoo.data._errors import DataError
from suzoo.data._fields import parse_columns
from suzoo.data.classes import Classified, class_names, class_numbers, read_classes
from suzoo.data.confusions import read_confusions
from suzoo.data.dialogpt import dialogue_batch, encode_dialogue, encode_dialogues
from suzoo.data.duplicates import count_duplicates, log_duplicates, texts_of_row
from suzoo.data.fingerprints import describe, fingerprint
from suzoo.data.flat import flat_batch
from suzoo.data.mlm import encode_word_lists, encode_words, masked_batch, segment_chinese
from suzoo.data.queries import Ranked, read_queries, read_ranked
from suzoo.data.readers import Pair, check_labels, read_pairs, read_rows, read_texts
from suzoo.data.sequences import SourceTarget, read_dialogues, read_seq2seq
from suzoo.data.stored import StoredRows, cache_folder, numbers
from suzoo.data.stream import STREAMED, RowStream, Stream
from suzoo.data.tokenizer import train_unigram, train_wordpiece
from suzoo.data.tokens import Examples, WithLabels, token_ids, tokenize_rows, tokenizer_key
from suzoo.data.tta import encode_sentence, encode_sentences, tta_batch
from suzoo.data.unilm import encode_source_target, encode_sources_targets, seq2seq_example, unilm_batch
from suzoo.data.vocabulary import (
    add_tokens,
    added_ids,
    chat_tokenizer,
    num_ids,
    seq2seq_tokenizer,
    slim_vocabulary,
    tokens_to_keep,
    without_inner_spaces,
)
from suzoo.models._batching import token_budget_batches
from suzoo.models._devices import batch_to_device, to_device
from suzoo.models._dialogue import SPEAKER_TOKENS, DialogueLayout, Turn, chat_template
from suzoo.models._tokenizer_files import load_tokenizer, save_tokenizer

__all__ = [
    "SPEAKER_TOKENS",
    "STREAMED",
    "Classified",
    "DataError",
    "DialogueLayout",
    "Examples",
    "Pair",
    "Ranked",
    "RowStream",
    "SourceTarget",
    "StoredRows",
    "Stream",
    "Turn",
    "WithLabels",
    "add_tokens",
    "added_ids",
    "batch_to_device",
    "cache_folder",
    "chat_template",
    "chat_tokenizer",
    "check_labels",
    "class_names",
    "class_numbers",
    "count_duplicates",
    "describe",
    "dialogue_batch",
    "encode_dialogue",
    "encode_dialogues",
    "encode_sentence",
    "encode_sentences",
    "encode_source_target",
    "encode_sources_targets",
    "encode_word_lists",
    "encode_words",
    "fingerprint",
    "flat_batch",
    "load_tokenizer",
    "log_duplicates",
    "masked_batch",
    "num_ids",
    "numbers",
    "parse_columns",
    "read_classes",
    "read_confusions",
    "read_dialogues",
    "read_pairs",
    "read_queries",
    "read_ranked",
    "read_rows",
    "read_seq2seq",
    "read_texts",
    "save_tokenizer",
    "segment_chinese",
    "seq2seq_example",
    "seq2seq_tokenizer",
    "slim_vocabulary",
    "texts_of_row",
    "to_device",
    "token_budget_batches",
    "token_ids",
    "tokenize_rows",
    "tokenizer_key",
    "tokens_to_keep",
    "train_unigram",
    "train_wordpiece",
    "tta_batch",
    "unilm_batch",
    "without_inner_spaces",
]
