"""Texts to tokens, once: the tokens of large data lie in the cache like its rows, those of small data in memory."""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import operator
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import chain, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from tqdm.auto import tqdm

from suzoo.data.stored import FORMAT, StoredRows, cache_folder, made_once, open_batches, write_batches

if TYPE_CHECKING:
    import pyarrow
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)
T = TypeVar("T")
# rows, the number of the first of them -> name -> a list of numbers for every row
Encode = Callable[[Sequence[T], int], Mapping[str, Sequence[Sequence[int]]]]
CHUNK = 2048  # rows that are tokenized at once
BYTES = ("token_type_ids", "special_tokens_mask")  # one byte is enough for their values
_job: tuple[Sequence, Encode] | None = None  # what the forked processes inherit


class Examples(Sequence[dict[str, np.ndarray]]):
    """Tokenized rows: name -> int32 array of one row, a view of the mapped file or of memory.

    Args:
        batches: of Arrow, with a list of numbers in every column.
    """

    def __init__(self, batches: Sequence[pyarrow.RecordBatch]):
        self.names = batches[0].schema.names
        self._starts = np.cumsum([0, *(batch.num_rows for batch in batches)]).tolist()
        self._columns = [
            [(column.offsets.to_numpy(), column.values.to_numpy()) for column in batch.columns] for batch in batches
        ]

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, place):
        if isinstance(place, slice):
            return [self[number] for number in range(*place.indices(len(self)))]
        number = operator.index(place)
        number += len(self) if number < 0 else 0
        if not 0 <= number < len(self):
            raise IndexError(f"example {place} of {len(self)}")
        batch = bisect_right(self._starts, number) - 1
        row = number - self._starts[batch]
        return {
            name: values[offsets[row] : offsets[row + 1]]
            for name, (offsets, values) in zip(self.names, self._columns[batch], strict=True)
        }

    def lengths(self, name: str = "input_ids") -> np.ndarray:
        """Numbers of tokens (n,), int32."""
        place = self.names.index(name)
        return np.concatenate([np.diff(columns[place][0]).astype(np.int32) for columns in self._columns])


class WithLabels(Sequence[tuple[dict[str, np.ndarray], Any]]):
    """(example, label) of every row; a single number as Python's.

    Args:
        examples: of `tokenize_rows`.
        labels: (n, ...) numbers, an array or a tensor.
    """

    def __init__(self, examples: Examples, labels: Any):
        assert len(examples) == len(labels)
        self.examples, self.labels = examples, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, place):
        label = self.labels[place]
        return self.examples[place], label if label.ndim else label.item()


def tokenize_rows(rows: Sequence[T], encode: Encode[T], *, key: Sequence[Any], num_workers: int = 1) -> Examples:
    """Every row by `encode`, in chunks; rows of the cache once, and again when rows, `key` or tokenizer have changed.

    Args:
        rows: from a reader.
        encode: a pure function of its arguments and of `key`.
        key: plain data that says what `encode` does: its name, `tokenizer_key`, lengths and other options.
        num_workers: processes that share the work on large data.
    """
    if not isinstance(rows, StoredRows):
        return Examples(list(_encoded(rows, encode, range(len(rows)))))
    name = hashlib.sha256(json.dumps([FORMAT, rows.path.name, key]).encode()).hexdigest()[:32]
    num_parts = max(1, min(num_workers, len(rows) // CHUNK))

    def make(list_of_parts: Path) -> None:
        logger.info("tokenizing %d rows in %d process(es)", len(rows), num_parts)
        parts = [f"{name}-{number}.arrow" for number in range(num_parts)]
        cuts = pairwise(np.linspace(0, len(rows), num_parts + 1).astype(int).tolist())
        jobs = [(list_of_parts.parent / part, *cut) for part, cut in zip(parts, cuts, strict=True)]
        if num_parts == 1:
            _write_part(rows, encode, *jobs[0])
        else:
            _write_parts(rows, encode, jobs)
        list_of_parts.write_text(json.dumps(parts))

    parts = json.loads(made_once(f"tokens/{name}.json", make).read_text())
    return Examples([batch for part in parts for batch in open_batches(cache_folder() / "tokens" / part)])


def _write_parts(rows: Sequence[T], encode: Encode[T], jobs: list[tuple[Path, int, int]]) -> None:
    """Each job in a process of its own, which has rows and function by the fork."""
    global _job
    _job = rows, encode
    try:
        with ProcessPoolExecutor(len(jobs), mp_context=multiprocessing.get_context("fork")) as pool:
            list(pool.map(_run_job, jobs))
    finally:
        _job = None


def _run_job(job: tuple[Path, int, int]) -> None:
    assert _job is not None
    _write_part(*_job, *job)


def _write_part(rows: Sequence[T], encode: Encode[T], path: Path, begin: int, end: int) -> None:
    batches = _encoded(rows, encode, range(begin, end))
    first = next(batches)
    with tqdm(total=end - begin, desc="tokenize", unit=" rows", disable=True if begin else None) as bar:

        def shown() -> Iterator[pyarrow.RecordBatch]:
            for batch in chain([first], batches):
                bar.update(len(batch))
                yield batch

        write_batches(path, first.schema, shown())


def _encoded(rows: Sequence[T], encode: Encode[T], numbers: range) -> Iterator[pyarrow.RecordBatch]:
    import pyarrow as pa

    for begin in range(numbers.start, numbers.stop, CHUNK):
        columns = encode(rows[begin : min(begin + CHUNK, numbers.stop)], begin)
        kinds = {name: pa.list_(pa.int8() if name in BYTES else pa.int32()) for name in columns}
        yield pa.record_batch({name: pa.array(column, kinds[name]) for name, column in columns.items()})
        if isinstance(rows, StoredRows) and begin // CHUNK % 64 == 63:
            rows.unload()


def tokenizer_key(tokenizer: PreTrainedTokenizerBase) -> str:
    """sha256 of what decides how a tokenizer cuts texts. Padding and truncation, which change from call to call, are
    left to the caller."""
    if tokenizer.is_fast:
        content = json.loads(tokenizer.backend_tokenizer.to_str())
        content = {name: value for name, value in content.items() if name not in ("truncation", "padding")}
    else:
        content = [tokenizer.get_vocab(), {name: str(value) for name, value in tokenizer.init_kwargs.items()}]
    special = {name: str(value) for name, value in tokenizer.special_tokens_map.items()}
    text = json.dumps([type(tokenizer).__name__, special, content], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], **options: Any) -> list[list[int]]:
    """`tokenizer(texts, **options)["input_ids"]`; of many texts in half the time, as no offsets and masks are made."""
    from transformers import PreTrainedTokenizerFast

    # verbose: or a text beyond the tokenizer's length is warned of, which is cut to that of the model later
    options |= {"return_attention_mask": False, "return_token_type_ids": False, "verbose": False}
    own = [getattr(type(tokenizer), name, None) for name in ("__call__", "_encode_plus")]
    stock = [getattr(PreTrainedTokenizerFast, name) for name in ("__call__", "_encode_plus")]
    if own != stock or len(texts) < 16:
        return tokenizer(list(texts), **options)["input_ids"]
    tokenizer(list(texts[:1]), **options)  # sets truncation, padding and special tokens of the backend
    backend = tokenizer.backend_tokenizer
    encodings = backend.encode_batch_fast(list(texts), add_special_tokens=options.get("add_special_tokens", True))
    return [encoding.ids for encoding in encodings]


def pieces(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of texts without special tokens around them; special tokens in them are plain text."""
    return _ids(tokenizer, texts, add_special_tokens=False, split_special_tokens=True) if texts else []


def token_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int) -> list[list[int]]:
    """Token ids of texts with special tokens around them, cut to `max_length`."""
    return _ids(tokenizer, texts, truncation=True, max_length=max_length)
