"""Files as rows: JSON lines, JSON, csv, tsv, plain lines and parquet, every row with the place it has.

The text formats have small parsers of our own, because an error has to name the line, and the rows after it are read.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import logging
from collections import deque
from collections.abc import Iterable, Iterator

from suzoo.data._errors import DataError
from suzoo.data._files import MAX_LINE_BYTES, SUFFIXES, File, encoding_advice, lines_of, opened

logger = logging.getLogger(__name__)
# a place ("x.tsv line 7") and the row, or the error that took the row's place
Located = tuple[str, "dict | DataError"]
CHUNK = 1 << 20  # characters of a JSON list that are read at once
Fields = Iterator[tuple[str, "list[str] | DataError"]]


def file_rows(file: File, has_header: bool = True, empty_lines: bool = False) -> Iterator[Located]:
    """Rows of one file.

    Args:
        has_header: False for a csv or tsv file without header: columns are then named "0", "1", …
        empty_lines: those of a .txt are rows too, so that line n is row n.
    """
    if file.format == ".parquet":
        return _parquet_rows(file)
    if file.format == ".json":
        return _json_rows(file)
    if file.format == ".jsonl":
        return _jsonl_rows(file)
    if file.format == ".txt":
        return _text_rows(file, empty_lines)
    if file.format:
        return _table_rows(file, has_header)
    raise DataError(
        f"{file.name} is of no known format: its name should end in {', '.join(SUFFIXES)}, each also with .gz"
    )


def numbered(name: str, rows: Iterable[dict]) -> Iterator[Located]:
    for number, row in enumerate(rows, start=1):
        yield f"{name} row {number}", row


def _text_rows(file: File, empty_lines: bool) -> Iterator[Located]:
    for where, line in lines_of(file):
        if isinstance(line, DataError):
            yield where, line
        elif line or empty_lines:
            yield where, {"text": line}


def _jsonl_rows(file: File) -> Iterator[Located]:
    for where, line in lines_of(file):
        if isinstance(line, DataError):
            yield where, line
        elif line.strip():
            yield where, json_object(where, line)


def json_object(where: str, text: str) -> dict | DataError:
    try:
        row = json.loads(text)
    except json.JSONDecodeError as error:
        return DataError(f"{where} is not JSON: {error.msg} at column {error.colno}")
    except (ValueError, RecursionError) as error:
        return DataError(f"{where} {_unreadable(error)}")
    return row if isinstance(row, dict) else DataError(f"{where} is a JSON {type(row).__name__}, not an object {{…}}")


def _unreadable(error: Exception) -> str:
    """What Python's JSON refuses though it is JSON."""
    return "is nested too deep" if isinstance(error, RecursionError) else "has a number of thousands of digits"


def _json_rows(file: File) -> Iterator[Located]:
    """A .json file is one list of objects, or JSON lines under another name."""
    first = next((line for _, line in lines_of(file) if not isinstance(line, DataError) and line.strip()), "")
    return _json_list(file) if first.lstrip().startswith("[") else _jsonl_rows(file)


def _json_list(file: File) -> Iterator[Located]:
    """The objects of a list one after the other; no more of the file is in memory than the largest needs."""
    overlong: list[str] = []

    def whole_number(digits: str) -> int:
        try:
            return int(digits)
        except ValueError:  # of thousands of digits
            overlong.append(digits)
            return 0

    decoder = json.JSONDecoder(parse_int=whole_number)
    with opened(file) as binary, io.TextIOWrapper(binary, encoding="utf-8-sig", newline="") as chunks:
        text, place, lines_before, at_end = "", 0, 0, False

        def more() -> None:
            nonlocal text, place, lines_before, at_end
            lines_before += text.count("\n", 0, place)
            text, place = text[place:], 0
            if len(text) > MAX_LINE_BYTES:
                raise DataError(f"{here()}: an element of more than {MAX_LINE_BYTES >> 20} MiB")
            try:
                found = chunks.read(max(CHUNK, len(text)))
            except UnicodeDecodeError as error:
                raise DataError(f"{file.name}: {encoding_advice(error.object, error)}") from error
            text, at_end = text + found, not found

        def here() -> str:
            return f"{file.name} line {lines_before + text.count(chr(10), 0, place) + 1}"

        def next_character() -> str:
            nonlocal place
            while True:
                while place < len(text) and text[place] in " \t\r\n":
                    place += 1
                if place < len(text) or at_end:
                    return text[place : place + 1]
                more()

        number = 0
        while (separator := next_character()) == ("," if number else "["):
            place += 1
            if next_character() == "]" and not number:
                return
            while True:
                overlong.clear()
                try:
                    row, end = decoder.raw_decode(text, place)
                except json.JSONDecodeError as error:
                    if at_end:
                        lines = lines_before + text.count("\n", 0, error.pos) + 1
                        raise DataError(f"{file.name} line {lines} is not JSON: {error.msg}") from error
                except RecursionError as error:
                    raise DataError(f"{here()} {_unreadable(error)}") from error
                else:
                    if end < len(text) or at_end:  # or a number may go on in what has not been read
                        break
                more()
            number += 1
            where = f"{file.name} row {number}"
            if overlong:
                yield where, DataError(f"{where} {_unreadable(ValueError())}")
            elif isinstance(row, dict):
                yield where, row
            else:
                yield where, DataError(f"{where} is a {type(row).__name__}, not an object {{…}}")
            place = end
        if separator != "]":
            raise DataError(f"{here()} is not JSON: a comma or the end of the list is missing")


def _table_rows(file: File, has_header: bool) -> Iterator[Located]:
    """csv has quotes as RFC 4180 has them; tsv has none: a quotation mark there is a character like any other.

    What spreadsheets leave behind is dropped with a note: columns at the end without name and content, and rows of
    nothing but separators.
    """
    columns: list[str] | None = None
    num_nameless = num_empty = 0
    for where, values in _csv_fields(file) if file.format == ".csv" else _tsv_fields(file):
        if isinstance(values, DataError):
            if columns is None and has_header:
                raise values
            yield where, values
        elif not values[0].strip() and len(values) > 1 and not any(map(str.strip, values)):
            num_empty += 1
        elif columns is None and has_header:
            columns = [name.strip() for name in values]
            while len(columns) > 1 and not columns[-1]:
                columns.pop()
                num_nameless += 1
            repeated = [name for name in columns if columns.count(name) > 1]
            if repeated:
                raise DataError(f"{file.name} has more than one column named {repeated[0]!r} in its header")
        else:
            columns = columns or list(map(str, range(len(values))))
            num_missing = len(columns) + num_nameless - len(values)
            if num_missing and not (0 < num_missing <= num_nameless):
                names = "the header has" if has_header else "the first row has"
                fault = f"has {len(values)} fields, {names} {len(columns) + num_nameless}"
                yield where, DataError(f"{where} {fault}{': ' + ', '.join(columns) if has_header else ''}")
            elif any(map(str.strip, values[len(columns) :])):
                yield where, DataError(f"{where} has something in a column that the header does not name")
            else:
                yield where, dict(zip(columns, values, strict=False))
    if num_nameless or num_empty:
        logger.warning(
            "%s: left out %d columns without name or content and %d rows without content",
            file.name,
            num_nameless,
            num_empty,
        )


def _tsv_fields(file: File) -> Fields:
    for where, line in lines_of(file):
        if line:
            yield where, line if isinstance(line, DataError) else line.split("\t")


def _csv_fields(file: File) -> Fields:
    """A row that is not csv costs its first line alone: the lines after it, which a quotation mark that is not closed
    would take along, are read again."""
    lines = lines_of(file)
    again: deque[tuple[str, str | DataError]] = deque()
    record: list[tuple[str, str | DataError]] = []  # the lines of the row that is read

    def feed() -> Iterator[str]:
        size = 0
        while item := again.popleft() if again else next(lines, None):
            record.append(item)
            text = "" if isinstance(item[1], DataError) else item[1]
            size = len(text) + (0 if len(record) == 1 else size)
            if size > MAX_LINE_BYTES:
                raise csv.Error(f"a field of more than {MAX_LINE_BYTES >> 20} MiB")
            yield text + "\n"

    csv.field_size_limit(1 << 30)  # the default refuses texts from 131,072 characters on
    reader = csv.reader(feed(), strict=True)
    while True:
        record.clear()
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            where, line = record[0]
            again.extendleft(reversed(record[1:]))
            reader = csv.reader(feed(), strict=True)
            fault = f"{where} is not csv ({error}): a quotation mark that is not closed?"
            yield where, line if isinstance(line, DataError) else DataError(fault)
            continue
        where = record[0][0]
        fault = next((line for _, line in record if isinstance(line, DataError)), None)
        if fault or values:
            yield where, fault or values


def _parquet_rows(file: File) -> Iterator[Located]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    with opened(file) as binary:
        try:
            for batch in pyarrow.parquet.ParquetFile(binary).iter_batches(batch_size=4096):
                for row in _plain_rows(batch):
                    number += 1
                    where = f"{file.name} row {number}"
                    yield where, DataError(f"{where}: {row}") if isinstance(row, str) else row
        except gzip.BadGzipFile:
            raise
        except (pyarrow.ArrowInvalid, OSError) as error:
            raise DataError(f"{file.name} is not a parquet file: {error}") from error


def _plain_rows(batch) -> list[dict | str]:
    """Rows of an Arrow batch; one whose bytes are no text is what is wrong with it."""
    try:
        return batch.to_pylist()
    except UnicodeDecodeError as error:
        if batch.num_rows == 1:
            return [encoding_advice(error.object, error)]
        return [row for place in range(batch.num_rows) for row in _plain_rows(batch.slice(place, 1))]
