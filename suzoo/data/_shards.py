"""The files of one data set by the numbers in their names: put in order, and refused where one is missing or double.

Known are the names of the Hub (train-00000-of-00002.parquet, with a hash behind it in old ones; 0000.parquet) and of
TensorFlow's data sets (c4-train.00000-of-01024.json.gz). So are those of Spark (part-00000-<job>-c000.snappy.parquet)
and of split (train_00.jsonl, train.1.tsv).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise
from pathlib import PurePosixPath
from typing import NamedTuple

from suzoo.data._errors import DataError
from suzoo.reach import SUFFIXES

_UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_SPARK = re.compile(rf"(?P<stem>part)-(?:[mr]-)?(?P<index>\d+)(?:-{_UUID})?(?:[-_]c(?P<piece>\d+))?(?:\.\w+)?")
_COUNTED = re.compile(r"(?P<stem>.*?)[-_.]?(?P<index>\d+)-of-(?P<total>\d+)(?:-[0-9a-f]{16})?")
# a year is no number of a shard, nor is a date
_NUMBERED = re.compile(
    r"(?P<stem>|.*?[-_.]|(?:.*[-_.])?(?:train|training|dev|validation|valid|val|test))"
    r"(?!(?:19|20)\d\d$)(?P<index>\d{1,6})"
)


class Shard(NamedTuple):
    stem: str
    index: int
    piece: int
    total: int | None


def base(name: str) -> str:
    """The name of a file without its folder."""
    return PurePosixPath(name).name


def bare(name: str) -> str:
    """The name of a file without folder, format and .gz, in small letters."""
    lower = base(name).lower().removesuffix(".gz")
    return lower.removesuffix(next((suffix for suffix in SUFFIXES if lower.endswith(suffix)), ""))


def shard_of(name: str) -> Shard | None:
    for pattern in (_SPARK, _COUNTED, _NUMBERED):
        if found := pattern.fullmatch(bare(name)):
            numbers = {key: int(value) for key, value in found.groupdict().items() if value and key != "stem"}
            return Shard(found["stem"].rstrip("-_."), numbers["index"], numbers.get("piece", 0), numbers.get("total"))
    return None


def whole_set(names: Iterable[str], where: str, known_whole: bool = False) -> list[str]:
    """The shards of one data set in their order, or the only file.

    Args:
        names: of files of one folder.
        where: what has them, for messages.
        known_whole: numbers may be left out, as Spark leaves out empty parts; its _SUCCESS says that all is there.

    Raises:
        DataError: files that are no shards of one set, shards of several, twice the same, or one is missing.
    """
    names = sorted(names)
    shards = {name: shard for name in names if (shard := shard_of(name))}
    if len(names) == 1 and not shards:
        return names
    kinds = {(shard.stem, base(name)[len(bare(name)) :]) for name, shard in shards.items()}
    if len(shards) < len(names) or len(kinds) > 1:
        raise DataError(f"{where} has several files: {', '.join(map(base, names))[:300]}; name one, or a pattern")
    totals = {shard.total for shard in shards.values()}
    if len(totals) > 1:
        some = ", ".join(base(next(n for n in names if shards[n].total == total)) for total in totals)
        raise DataError(f"{where} has shards of different sets, as {some}: delete one set, or name a pattern")
    ordered = sorted(names, key=lambda name: shards[name][1:3])
    for name, following in pairwise(ordered):
        if shards[name][1:3] == shards[following][1:3]:
            raise DataError(
                f"{where} has the same shard twice, {base(name)} and {base(following)}: delete one, or name a pattern"
            )
    numbers = {shard.index for shard in shards.values()}
    total = shards[ordered[0]].total
    first = 1 if (total in numbers if total else 0 not in numbers) else 0  # some count from 1
    total = total or max(numbers) - first + 1
    missing = sorted(set(range(first, first + total)) - numbers)
    if missing and not known_whole:
        raise DataError(
            f"{where} has {len(numbers)} of {total} shards: number {missing[0]} is missing beside {base(ordered[0])}; "
            "download or write it again"
        )
    return ordered
