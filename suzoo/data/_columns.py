"""Many rows at once, by columns: the fast way through the readers, for rows at which nothing at all is odd.

It takes or refuses a block of rows as a whole and says nothing about it: rows of a block that it refuses are read one
by one, which names the place and the field. Both ways give the same rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from suzoo.data._errors import DataError

# a place ("x.tsv line 7") and the row, or the error that took the row's place
Located = tuple[str, "dict | DataError"]


class Odd(Exception):
    """A block is to be read row by row."""


@dataclass(frozen=True)
class BlockColumns:
    """Values of the columns of a block.

    Args:
        num_rows: of the block.
        of: name -> its values, as Python's; a KeyError where some row has no such column.
    """

    num_rows: int
    of: Callable[[str], Sequence[Any]]

    def __getitem__(self, name: str) -> Sequence[Any]:
        try:
            return self.of(name)
        except KeyError:
            raise Odd from None


def _odd() -> BlockColumns:
    raise Odd


@dataclass(frozen=True)
class Block:
    """Rows that follow each other. One of its two ways is gone, once, before the next block is asked for.

    Args:
        rows: -> each with its place, or the error in its place.
        columns: -> the same by columns; raises `Odd`.
    """

    rows: Callable[[], Iterator[Located]]
    columns: Callable[[], BlockColumns] = _odd


def columns_of(rows: Sequence[dict]) -> BlockColumns:
    return BlockColumns(len(rows), lambda name: [row[name] for row in rows])
