"""Confusion sets: for a character as it is written, those that may have been meant."""

from __future__ import annotations

from pathlib import Path

from suzoo.data._errors import DataError
from suzoo.data._files import File, lines_of
from suzoo.data._formats import json_object
from suzoo.reach import format_of


def read_confusions(*paths: str | Path) -> dict[str, list[str]]:
    """Confusion sets of several files together (same sound, like sound, like shape), without repetition.

    A .json file holds one object, character -> list of characters; any other a line per character, the character, a tab
    and the others without anything between. The character itself is left out of its set.

    Raises:
        DataError: a file is missing, not UTF-8, or of another form.
    """
    found: dict[str, dict[str, None]] = {}  # dicts as sets that keep the order
    for path in map(Path, paths):
        if not path.is_file():
            raise DataError(f"there is no file {path}")
        for where, written, meant in _json_sets(path) if format_of(path.name) == ".json" else _line_sets(path):
            if not isinstance(meant, list) or not all(isinstance(character, str) for character in meant):
                raise DataError(
                    f"{where}: the confusions of {written!r} are not a list of characters but {meant!r:.40}"
                )
            found.setdefault(written, {}).update(dict.fromkeys(meant))
    return {written: [other for other in meant if other != written] for written, meant in found.items()}


def _json_sets(path: Path) -> list[tuple[str, str, object]]:
    lines = []
    for _, line in lines_of(File.of(path)):
        if isinstance(line, DataError):
            raise line
        lines.append(line)
    sets = json_object(str(path), "\n".join(lines))
    if isinstance(sets, DataError):
        raise sets
    return [(str(path), written, meant) for written, meant in sets.items()]


def _line_sets(path: Path) -> list[tuple[str, str, object]]:
    sets: list[tuple[str, str, object]] = []
    for where, line in lines_of(File.of(path)):
        if isinstance(line, DataError):
            raise line
        if line:
            written, tab, meant = line.partition("\t")
            if not tab or not written:
                raise DataError(f"{where} is not a character, a tab and the characters it is taken for")
            sets.append((where, written, [character for character in meant if not character.isspace()]))
    return sets
