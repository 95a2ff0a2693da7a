"""Names as rows: embedded corpora, files, URLs, globs, folders with the shards of a split, datasets of the Hub."""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from suzoo.data import embedded
from suzoo.data._columns import Block, BlockColumns, Located
from suzoo.data._errors import DataError
from suzoo.data._files import File
from suzoo.data._formats import file_blocks, numbered, rows_of_blocks
from suzoo.data._shards import bare, base, shard_of, whole_set
from suzoo.data._values import NLI_CLASSES
from suzoo.reach import SPLIT_NAMES, SUFFIXES, format_of, is_url, names_a_split, nearest, why_no_data, why_unreachable

HUB_ROWS = 4096  # that are read at once


@dataclass(frozen=True)
class Found:
    """What a source stands for.

    Args:
        blocks: (has_header, empty_lines) -> rows with their places, see `file_blocks`.
        num_bytes: about how much they are as text.
        content: -> a name for what they hold, which changes with it.
    """

    blocks: Callable[[bool, bool], Iterator[Block]]
    num_bytes: int
    content: Callable[[], Any]


def find(source: str | Path, split: str | None) -> Found:
    """One source of anything that `read_rows` accepts."""
    name = str(source)
    if name.startswith("embedded:"):
        rows = embedded.load(name.removeprefix("embedded:"), split)
        return Found(lambda *_: iter([Block(lambda: numbered(name, rows))]), 0, lambda: [name, split])
    names = files_of(source, split)
    if names is None:
        return _on_the_hub(name, split)
    files = [File.of(name) for name in names]
    return Found(
        lambda *options: chain.from_iterable(file_blocks(file, *options) for file in files),
        sum(file.num_bytes for file in files),
        lambda: [[file.format, file.is_gzip, file.sha256()] for file in files],
    )


def rows_of(source: str | Path, *, empty_lines: bool = False) -> Iterator[Located]:
    """Rows of the train split of a source, with header."""
    return rows_of_blocks(find(source, None).blocks(True, empty_lines))


def files_of(source: str | Path, split: str | None) -> list[str] | None:
    """Names of the files that a source stands for, in their order; None if it can only be a dataset of the Hub."""
    name = str(source) if is_url(source) else str(Path(source).expanduser())
    if (is_url(name) and format_of(name) and "*" not in name) or (not is_url(name) and Path(name).is_file()):
        if split not in (None, "train"):
            raise DataError(
                f"{name} is one file, so it has no split {split!r}: give the file of that split, or a folder"
            )
        return [name]
    if (inside := _inside(name)) is not None:
        return _files_of_split(name, inside, split or "train")
    if "*" in name if is_url(name) else glob.has_magic(name):
        found = [path for path in _matching(name) if format_of(path)]
        if not found:
            raise DataError(f"there is no file like {source}")
        return _whole_sets(found, str(source))
    if is_url(name):
        raise DataError(f"there is no folder {name}, and no file of a known format: {', '.join(SUFFIXES)}")
    if reason := why_no_data(source):
        raise DataError(reason)
    return None


def _remote(url: str) -> tuple[Any, str]:
    """The file system of a URL and its own name for the place."""
    import fsspec

    try:
        return fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise DataError(f"{url.partition('://')[0]}:// can't be read: {error}") from error


def _inside(folder: str) -> dict[str, bool] | None:
    """Name -> is it a folder, for all that a folder holds; None if there is no such folder."""
    if not is_url(folder):
        path = Path(folder)
        return {entry.name: entry.is_dir() for entry in path.iterdir()} if path.is_dir() else None
    fs, path = _remote(folder)
    try:
        if not fs.isdir(path):
            return None
        return {base(entry["name"].rstrip("/")): entry["type"] == "directory" for entry in fs.ls(path, detail=True)}
    except Exception as error:  # of the network, or of the store's client: they have no base in common
        raise DataError(f"{folder} can't be listed ({str(error).partition(chr(10))[0]}): check the network") from error


def _matching(pattern: str) -> list[str]:
    if not is_url(pattern):
        return glob.glob(pattern, recursive=True)
    fs, path = _remote(pattern)
    return [fs.unstrip_protocol(found) for found in fs.glob(path)]


def _whole_sets(names: list[str], where: str) -> list[str]:
    """Files of a pattern, sets of shards one after the other."""
    sets: dict[tuple, list[str]] = {}
    for name in sorted(names):
        shard = shard_of(name)
        sets.setdefault((str(Path(name).parent), shard.stem if shard else base(name)), []).append(name)
    return [name for members in sets.values() for name in whole_set(members, where)]


def _files_of_split(folder: str, inside: dict[str, bool], split: str) -> list[str]:
    """The files of a folder that belong to a split. Their own names say so (train.tsv, stsb.train.jsonl.gz, shards of
    train), or that of a folder in it (train/part-0.parquet). Else shards that name no split are those of train."""
    files = [name for name, is_folder in inside.items() if format_of(name) and not is_folder and name[0] not in "._"]
    known_whole = "_SUCCESS" in inside
    aliases = SPLIT_NAMES.get(split, (split,))
    stems = {name: shard.stem if (shard := shard_of(name)) else bare(name) for name in files}
    found: list[str] = []
    for delimiter in (r"\.", r"[-_. ]"):
        for alias in aliases:
            found = found or [name for name, stem in stems.items() if alias in re.split(delimiter, stem)]
    if not found and (deeper := next((name for name in aliases if inside.get(name)), None)):
        return _files_of_split(_join(folder, deeper), _inside(_join(folder, deeper)) or {}, "train")
    if not found and split == "train":
        found = [name for name, stem in stems.items() if shard_of(name) and not names_a_split(stem)]
    if found:
        return [_join(folder, name) for name in whole_set(found, f"split {split!r} of folder {folder}", known_whole)]
    if inside.get("data"):
        return _files_of_split(_join(folder, "data"), _inside(_join(folder, "data")) or {}, split)
    parts = dict.fromkeys(part for stem in stems.values() for part in stem.split(".") if part)
    available = [*parts, *(name for name, is_folder in inside.items() if is_folder)]
    raise DataError(
        f"folder {folder} has no split {split!r}{nearest(split, available)}; it has {', '.join(available) or 'none'}"
    )


def _join(folder: str, name: str) -> str:
    return f"{folder.rstrip('/')}/{name}" if is_url(folder) else str(Path(folder, name))


def _on_the_hub(name: str, split: str | None) -> Found:
    dataset = _load(name, split, streaming=False)
    tables = dataset.with_format("arrow")  # by columns, and no picture of them is decoded

    def column(table: Any, name: str) -> list:
        values, feature = table.column(name).to_pylist(), dataset.features[name]
        return [class_of(value, feature.names) for value in values] if _has_classes(feature) else values

    def block(first: int) -> Block:
        table = tables[first : first + HUB_ROWS]
        rows = (named_classes(row, dataset.features) for row in table.to_pylist())
        return Block(
            partial(numbered, name, rows, first + 1), lambda: BlockColumns(table.num_rows, partial(column, table))
        )

    return Found(
        lambda *_: map(block, range(0, len(dataset), HUB_ROWS)),
        dataset.data.nbytes,
        lambda: dataset._fingerprint,
    )


def streamed_dataset(name: str, split: str | None) -> Any:
    """An IterableDataset of the Hub."""
    return _load(name, split, streaming=True)


def _load(name: str, split: str | None, *, streaming: bool) -> Any:
    import datasets  # takes a second to import

    repo, _, config = name.partition(":")
    try:
        if unreachable := why_unreachable(repo, "dataset"):
            raise ConnectionError(unreachable)
        names = datasets.get_dataset_split_names(repo, config or None)
        chosen = _pick_split(split or "train", names, name)
        return datasets.load_dataset(repo, config or None, split=chosen, streaming=streaming)
    except DataError:
        raise
    except Exception as error:  # of the reader, of the network, or of datasets: they have no base in common
        reason = str(error).strip().partition("\n")[0]
        raise DataError(
            f"{name} is no local file or folder, and as a dataset of the Hub it cannot be loaded ({reason}): "
            "check the name and the network, or give a local file"
        ) from error


def _pick_split(split: str, available: list[str], where: str) -> str:
    """The one of `available` that is called `split`, or by another usual name of it."""
    for name in SPLIT_NAMES.get(split, (split,)):
        if name in available:
            return name
    raise DataError(
        f"{where} has no split {split!r}{nearest(split, available)}; it has {', '.join(available) or 'none'}"
    )


def named_classes(row: dict, features: Mapping[str, Any]) -> dict:
    """A row of a Hub dataset with the class numbers of inference as their names."""
    return row | {
        column: class_of(row[column], feature.names) for column, feature in features.items() if _has_classes(feature)
    }


def _has_classes(feature: Any) -> bool:
    return hasattr(feature, "names") and hasattr(feature, "int2str")


def class_of(value: int | None, names: list[str]) -> int | str | None:
    """A class number of a Hub dataset. Those of inference get their name, since their order is the dataset's own, and
    -1, which stands for no label, becomes None."""
    if value is None or value < 0:
        return None
    return names[value] if any(name.lower() in NLI_CLASSES for name in names) else value
