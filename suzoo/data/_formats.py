"""Files as rows: JSON lines, JSON, csv, tsv, plain lines and parquet, every row with the place it has.

The text formats have small parsers of our own, because an error has to name the line, and the rows after it are read.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain

from suzoo.data._columns import Block, BlockColumns, Located, Odd, columns_of
from suzoo.data._errors import DataError
from suzoo.data._files import MAX_LINE_BYTES, File, Lines, encoding_advice, line_blocks, lines_of, opened
from suzoo.reach import SUFFIXES

logger = logging.getLogger(__name__)
MAX_ROW_LINES = 1 << 17  # of csv; all are kept until its end, to be read again if it has none
CHUNK = 1 << 20  # characters of a JSON list that are read at once
Fields = Iterator[tuple[str, "list[str] | DataError"]]


def file_blocks(file: File, has_header: bool = True, empty_lines: bool = False) -> Iterator[Block]:
    """Rows of one file, block by block.

    Args:
        has_header: False for a csv or tsv file without header: columns are then named "0", "1", …
        empty_lines: those of a .txt are rows too, so that line n is row n.
    """
    if file.format == ".parquet":
        return _parquet_blocks(file)
    if file.format == ".json":
        return _json_blocks(file)
    if file.format == ".jsonl":
        return _jsonl_blocks(file)
    if file.format == ".txt":
        return _text_blocks(file, empty_lines)
    if file.format:
        return _table_blocks(file, has_header)
    raise DataError(
        f"{file.name} is of no known format: its name should end in {', '.join(SUFFIXES)}, each also with .gz"
    )


def file_rows(file: File, has_header: bool = True, empty_lines: bool = False) -> Iterator[Located]:
    """`file_blocks` row by row."""
    return rows_of_blocks(file_blocks(file, has_header, empty_lines))


def rows_of_blocks(blocks: Iterable[Block]) -> Iterator[Located]:
    return chain.from_iterable(block.rows() for block in blocks)


def numbered(name: str, rows: Iterable[dict], first: int = 1) -> Iterator[Located]:
    for number, row in enumerate(rows, start=first):
        yield f"{name} row {number}", row


def _text_blocks(file: File, empty_lines: bool) -> Iterator[Block]:
    def rows(lines: Lines) -> Iterator[Located]:
        for where, line in lines.located():
            if isinstance(line, DataError):
                yield where, line
            elif line or empty_lines:
                yield where, {"text": line}

    def columns(lines: Lines) -> BlockColumns:
        texts = lines.texts() if empty_lines else list(filter(None, lines.texts()))
        return BlockColumns(len(texts), {"text": texts}.__getitem__)

    for lines in line_blocks(file):
        yield Block(partial(rows, lines), partial(columns, lines))


def _jsonl_blocks(file: File) -> Iterator[Block]:
    for lines in line_blocks(file):
        yield Block(partial(_jsonl_rows, lines), partial(_jsonl_columns, lines))


def _jsonl_rows(lines: Lines) -> Iterator[Located]:
    for where, line in lines.located():
        if isinstance(line, DataError):
            yield where, line
        elif line.strip():
            yield where, json_object(where, line)


def _jsonl_columns(lines: Lines) -> BlockColumns:
    rows = []
    decode = json.JSONDecoder().raw_decode
    for line in lines.texts():
        if not line:
            continue
        try:
            row, end = decode(line)
        except (ValueError, RecursionError):
            raise Odd from None
        if end != len(line) or type(row) is not dict:
            raise Odd
        rows.append(row)
    return columns_of(rows)


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


def _json_blocks(file: File) -> Iterator[Block]:
    """A .json file is one list of objects, or JSON lines under another name."""
    first = next((line for _, line in lines_of(file) if not isinstance(line, DataError) and line.strip()), "")
    return iter([Block(partial(_json_list, file))]) if first.lstrip().startswith("[") else _jsonl_blocks(file)


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


class _Table:
    """Rows of fields as rows of named columns, over the blocks of a file.

    What spreadsheets leave behind is dropped with a note: columns at the end without name and content, and rows of
    nothing but separators.
    """

    def __init__(self, file: File, has_header: bool):
        self.file, self.has_header = file, has_header
        self.names: list[str] | None = None
        self.num_nameless = self.num_empty = 0

    def rows(self, fields: Fields) -> Iterator[Located]:
        for where, values in fields:
            if isinstance(values, DataError):
                if self.names is None and self.has_header:
                    raise values
                yield where, values
            elif not values[0].strip() and len(values) > 1 and not any(map(str.strip, values)):
                self.num_empty += 1
            elif self.names is None and self.has_header:
                self._read_header(values)
            else:
                self.names = self.names or list(map(str, range(len(values))))
                yield where, self._row(where, values, self.names)

    def _read_header(self, values: list[str]) -> None:
        self.names = [name.strip() for name in values]
        while len(self.names) > 1 and not self.names[-1]:
            self.names.pop()
            self.num_nameless += 1
        repeated = [name for name in self.names if self.names.count(name) > 1]
        if repeated:
            raise DataError(f"{self.file.name} has more than one column named {repeated[0]!r} in its header")

    def _row(self, where: str, values: list[str], names: list[str]) -> dict | DataError:
        num_columns = len(names) + self.num_nameless
        if not len(names) <= len(values) <= num_columns:
            kind = "the header has" if self.has_header else "the first row has"
            fault = f"has {len(values)} fields, {kind} {num_columns}"
            return DataError(f"{where} {fault}{': ' + ', '.join(names) if self.has_header else ''}")
        if any(map(str.strip, values[len(names) :])):
            return DataError(f"{where} has something in a column that the header does not name")
        return dict(zip(names, values, strict=False))

    def columns(self, fields: Callable[[int], list[str]]) -> BlockColumns:
        """
        Args:
            fields: number of fields in each row -> those of all rows, end to end; raises `Odd` where a row has others.
        """
        if not self.names or self.num_nameless:
            raise Odd
        size = len(self.names)
        values = fields(size)
        columns = {name: values[place::size] for place, name in enumerate(self.names)}
        if not all(map(str.strip, columns[self.names[0]])):  # nothing but separators?
            raise Odd
        return BlockColumns(len(values) // size, columns.__getitem__)

    def note(self) -> None:
        if self.num_nameless or self.num_empty:
            logger.warning(
                "%s: left out %d columns without name or content and %d rows without content",
                self.file.name,
                self.num_nameless,
                self.num_empty,
            )


def _table_blocks(file: File, has_header: bool) -> Iterator[Block]:
    """csv has quotes as RFC 4180 has them; tsv has none: a quotation mark there is a character like any other."""
    table = _Table(file, has_header)
    yield from _csv_blocks(file, table) if file.format == ".csv" else _tsv_blocks(file, table)
    table.note()


def _tsv_blocks(file: File, table: _Table) -> Iterator[Block]:
    def rows(lines: Lines) -> Fields:
        for where, line in lines.located():
            if line:
                yield where, line if isinstance(line, DataError) else line.split("\t")

    def fields(lines: Lines, size: int) -> list[str]:
        texts = list(filter(None, lines.texts()))
        if {text.count("\t") for text in texts} != {size - 1}:
            raise Odd
        return "\t".join(texts).split("\t")

    for lines in line_blocks(file):
        yield Block(lambda at=lines: table.rows(rows(at)), partial(table.columns, partial(fields, lines)))


def _csv_blocks(file: File, table: _Table) -> Iterator[Block]:
    """Whole rows of fields; from the first that is none on, one by one."""
    csv.field_size_limit(1 << 30)  # the default refuses texts from 131,072 characters on
    blocks = line_blocks(file)
    texts: list[str] = []  # of a row that goes on in the next block
    number = 1
    for lines in blocks:
        try:
            texts += lines.texts()
            fields, num_lines = _whole_fields(texts)
        except Odd:
            num_lines = 0
        if not num_lines:
            before = _places(file, texts[: lines.first - number], number)
            rest = (line for block in (lines, *blocks) for line in block.located())
            yield Block(lambda: table.rows(_csv_fields(chain(before, rest))))  # noqa: B023
            return
        located = _places(file, texts[:num_lines], number)
        yield Block(
            lambda at=located: table.rows(_csv_fields(at)),
            partial(table.columns, partial(_end_to_end, fields)),
        )
        texts, number = texts[num_lines:], number + num_lines
    if texts:
        yield Block(lambda: table.rows(_csv_fields(_places(file, texts, number))))


def _places(file: File, texts: list[str], first: int) -> Iterator[tuple[str, str | DataError]]:
    return ((f"{file.name} line {number}", text) for number, text in enumerate(texts, start=first))


def _end_to_end(fields: list[list[str]], size: int) -> list[str]:
    if {len(values) for values in fields if values} != {size}:
        raise Odd
    return list(chain.from_iterable(fields))


def _whole_fields(texts: list[str]) -> tuple[list[list[str]], int]:
    """The fields of the rows that end within these lines, and how many lines those are."""
    if sum(map(len, texts)) > MAX_LINE_BYTES:
        raise Odd
    reader = csv.reader((text + "\n" for text in texts), strict=True)
    found, num_lines = [], 0
    with contextlib.suppress(csv.Error):  # of a row that goes on, or of one that is bad: which, is seen from the next
        for fields in reader:
            found.append(fields)
            num_lines = reader.line_num
    return found, num_lines


def _csv_fields(lines: Iterator[tuple[str, str | DataError]]) -> Fields:
    """A row that is not csv costs its first line alone: the lines after it, which a quotation mark that is not closed
    would take along, are read again."""
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
            if len(record) > MAX_ROW_LINES:
                raise csv.Error(f"a field of more than {MAX_ROW_LINES:,} lines")
            yield text + "\n"

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


def _parquet_blocks(file: File) -> Iterator[Block]:
    import pyarrow
    import pyarrow.parquet

    def rows(batch, first: int) -> Iterator[Located]:
        for number, row in enumerate(_plain_rows(batch), start=first):
            where = f"{file.name} row {number}"
            yield where, DataError(f"{where}: {row}") if isinstance(row, str) else row

    def column(batch, name: str) -> list:
        try:
            return batch.column(name).to_pylist()
        except UnicodeDecodeError:
            raise Odd from None

    first = 1
    with opened(file) as binary:
        try:
            for batch in pyarrow.parquet.ParquetFile(binary).iter_batches(batch_size=4096):
                columns = BlockColumns(batch.num_rows, partial(column, batch))
                yield Block(partial(rows, batch, first), lambda columns=columns: columns)
                first += batch.num_rows
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
