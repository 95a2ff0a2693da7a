"""Where rows come from: embedded corpora, local files, folders, Hub datasets. Yields every row with the place it has.

A file is read by its own small parsers, because an error has to name the line.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from suzoo.data import embedded
from suzoo.data._errors import DataError, nearest

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".txt", ".parquet")
SPLIT_NAMES = {
    "train": ("train", "training"),
    "dev": ("dev", "validation", "valid", "val"),
    "test": ("test",),
}
SHARD = r"-\d+-of-\d+$"
# a place ("x.tsv line 7") and the row, or the error that took the row's place
Located = tuple[str, "dict | DataError"]


def rows_of(source: str | Path, split: str | None, has_header: bool = True) -> Iterator[Located]:
    """Rows of anything that `read_rows` accepts.

    Args:
        has_header: False for a csv or tsv file without header: columns are then named "0", "1", …
    """
    name = str(source)
    if name.startswith("embedded:"):
        return _numbered(name, embedded.load(name.removeprefix("embedded:"), split))
    path = Path(source).expanduser()
    if path.is_dir():
        files = _files_of_split(path, split or "train")
        return chain.from_iterable(_file_rows(file, has_header) for file in files)
    if path.is_file():
        if split not in (None, "train"):
            raise DataError(
                f"{name} is one file, so it has no split {split!r}: give the file of that split, or a folder"
            )
        return _file_rows(path, has_header)
    if _format(path) or not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?(:[\w.-]+)?", name):
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(f"there is no file or folder {name}{nearest(path.name, siblings)}")
    return _hub_rows(name, split)


def _numbered(name: str, rows: Iterable[dict]) -> Iterator[Located]:
    for number, row in enumerate(rows, start=1):
        yield f"{name} row {number}", row


def _format(path: Path) -> str:
    """The suffix that says how to read a file, .gz aside; empty if we cannot read it."""
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    return suffix.lower() if suffix.lower() in SUFFIXES else ""


def _pick_split(split: str, available: Iterable[str], where: str) -> str:
    """The one of `available` that is called `split`, or by another usual name of it."""
    available = list(available)
    for name in SPLIT_NAMES.get(split, (split,)):
        if name in available:
            return name
    raise DataError(
        f"{where} has no split {split!r}{nearest(split, available)}; it has {', '.join(available) or 'none'}"
    )


def _files_of_split(folder: Path, split: str) -> list[Path]:
    """The file of a folder one of whose dot-separated parts names the split (train.tsv, stsb.train.jsonl.gz), or its
    shards as the Hub names them (train-00000-of-00002.parquet)."""
    files: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and _format(path):
            for part in path.name.removesuffix(".gz").split(".")[:-1]:
                files.setdefault(re.sub(SHARD, "", part), []).append(path)
    found = files[_pick_split(split, files, f"folder {folder}")]
    if len(found) > 1 and not all(re.search(SHARD, path.name.split(".")[0]) for path in found):
        raise DataError(
            f"folder {folder} has several files of split {split!r}: {', '.join(p.name for p in found)}; name one"
        )
    return found


def _file_rows(path: Path, has_header: bool) -> Iterator[Located]:
    suffix = _format(path)
    if not suffix:
        raise DataError(
            f"{path} is of no known format: its name should end in {', '.join(SUFFIXES)}, each also with .gz"
        )
    if suffix == ".parquet":
        return _parquet_rows(path)
    if suffix == ".json":
        return _json_rows(path)
    if suffix == ".jsonl":
        return _jsonl_rows(path)
    if suffix == ".txt":
        return (
            (where, line if isinstance(line, DataError) else {"text": line}) for where, line in lines_of(path) if line
        )
    return _table_rows(path, suffix, has_header)


def _open(path: Path):  # a binary file object; gzip's and open's have no common type
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")


def lines_of(path: Path) -> Iterator[tuple[str, str | DataError]]:
    """(place, line without its end); only \\n ends a line, so U+2028 and the like stay inside."""
    with _open(path) as file:
        try:
            for number, raw in enumerate(file, start=1):
                where = f"{path} line {number}"
                if number == 1 and raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
                    raise DataError(f"{path} is UTF-16: write it as UTF-8 (iconv -f UTF-16 -t UTF-8)")
                try:
                    yield where, raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                except UnicodeDecodeError as error:
                    yield where, DataError(f"{where}: {_encoding_advice(raw, error)}")
        except (EOFError, gzip.BadGzipFile) as error:
            raise DataError(f"{path} is not a whole gzip file: {error}") from error


def _encoding_advice(raw: bytes, error: UnicodeDecodeError) -> str:
    try:
        raw.decode("gb18030")
        guess = "it may be GB18030 (iconv -f GB18030 -t UTF-8)"
    except UnicodeDecodeError:
        guess = "write the file as UTF-8"
    return f"byte {raw[error.start]:#04x} at position {error.start} is not UTF-8; {guess}"


def _jsonl_rows(path: Path) -> Iterator[Located]:
    for where, line in lines_of(path):
        if isinstance(line, DataError):
            yield where, line
        elif line.strip():
            yield where, json_object(where, line)


def json_object(where: str, text: str) -> dict | DataError:
    try:
        row = json.loads(text)
    except json.JSONDecodeError as error:
        return DataError(f"{where} is not JSON: {error.msg} at column {error.colno}")
    return row if isinstance(row, dict) else DataError(f"{where} is a JSON {type(row).__name__}, not an object {{…}}")


def _json_rows(path: Path) -> Iterator[Located]:
    """A .json file is one list of objects, or JSON lines under another name."""
    first = next((line for _, line in lines_of(path) if not isinstance(line, DataError) and line.strip()), "")
    if not first.lstrip().startswith("["):
        yield from _jsonl_rows(path)
        return
    with _open(path) as file:
        try:
            rows = json.loads(file.read().decode("utf-8-sig"))
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: {_encoding_advice(error.object, error)}") from error
        except json.JSONDecodeError as error:
            raise DataError(f"{path} line {error.lineno} is not JSON: {error.msg}") from error
    for number, row in enumerate(rows, start=1):
        where = f"{path} row {number}"
        yield (
            where,
            row if isinstance(row, dict) else DataError(f"{where} is a {type(row).__name__}, not an object {{…}}"),
        )


def _table_rows(path: Path, suffix: str, has_header: bool) -> Iterator[Located]:
    """csv has quotes as RFC 4180 has them; tsv has none: a quotation mark there is a character like any other."""
    fields = _csv_fields(path) if suffix == ".csv" else _tsv_fields(path)
    header: list[str] | None = None
    for where, values in fields:
        if header is None and has_header:
            if isinstance(values, DataError):
                raise values
            header = [name.strip() for name in values]
            repeated = {name for name in header if header.count(name) > 1}
            if repeated:
                raise DataError(f"{path} has more than one column named {sorted(repeated)[0]!r} in its header")
        elif isinstance(values, DataError):
            yield where, values
        elif header is not None and len(values) != len(header):
            fault = f"has {len(values)} fields, the header has {len(header)}: {', '.join(header)}"
            yield where, DataError(f"{where} {fault}")
        else:
            yield where, dict(zip(header or map(str, range(len(values))), values, strict=True))


def _tsv_fields(path: Path) -> Iterator[tuple[str, list[str] | DataError]]:
    for where, line in lines_of(path):
        if line:
            yield where, line if isinstance(line, DataError) else line.split("\t")


def _csv_fields(path: Path) -> Iterator[tuple[str, list[str] | DataError]]:
    bad: list[DataError] = []

    def good_lines() -> Iterator[str]:
        for _, line in lines_of(path):
            if isinstance(line, DataError):
                bad.append(line)
            yield "\n" if isinstance(line, DataError) else line + "\n"

    csv.field_size_limit(1 << 30)  # the default refuses texts from 131,072 characters on
    reader = csv.reader(good_lines(), strict=True)
    while True:
        where = f"{path} line {reader.line_num + 1}"
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(f"{where} is not csv ({error}): a quotation mark that is not closed?") from error
        if bad:
            yield where, bad.pop()
        elif values:
            yield where, values


def _parquet_rows(path: Path) -> Iterator[Located]:
    import pyarrow
    import pyarrow.parquet

    with _open(path) as file:
        try:
            rows = pyarrow.parquet.read_table(file).to_pylist()
        except (pyarrow.ArrowInvalid, OSError, EOFError) as error:
            raise DataError(f"{path} is not a parquet file: {error}") from error
    return _numbered(str(path), rows)


def _hub_rows(name: str, split: str | None) -> Iterator[Located]:
    import datasets  # takes a second to import

    repo, _, config = name.partition(":")
    try:
        names = datasets.get_dataset_split_names(repo, config or None)
        dataset = datasets.load_dataset(repo, config or None, split=_pick_split(split or "train", names, name))
    except DataError:
        raise
    except Exception as error:  # of the reader, of the network, or of datasets: they have no base in common
        reason = str(error).strip().partition("\n")[0]
        raise DataError(
            f"{name} is no local file or folder, and as a dataset of the Hub it cannot be loaded ({reason}): "
            "check the name and the network, or give a local file"
        ) from error
    classes = {column: f for column, f in dataset.features.items() if isinstance(f, datasets.ClassLabel)}
    for number, row in enumerate(dataset, start=1):
        yield f"{name} row {number}", {**row, **{column: _class(row[column], f.names) for column, f in classes.items()}}


def _class(value: int | None, names: list[str]) -> int | str | None:
    """A class number of a Hub dataset. Those of inference get their name, since their order is the dataset's own, and
    -1, which stands for no label, becomes None."""
    if value is None or value < 0:
        return None
    return names[value] if any(name.lower() in NLI_CLASSES for name in names) else value


NLI_CLASSES = {
    "contradiction": 0.0, "not_entailment": 0.0, "contradict": 0.0, "contradictory": 0.0, "矛盾": 0.0,
    "neutral": 1.0, "中立": 1.0, "中性": 1.0,
    "entailment": 2.0, "entail": 2.0, "entails": 2.0, "蕴含": 2.0, "蕴涵": 2.0,
}  # fmt: skip
