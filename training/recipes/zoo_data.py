"""The files that a member of the zoo learns from and is scored on, out of the sources that a user has got."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from recipes.zoo import SOURCES, Member, Source

from suzoo.data import describe, read_classes, read_dialogues, read_pairs, read_seq2seq, read_texts


class Kind(NamedTuple):
    """How rows of one kind are read and written."""

    suffix: str
    read: Callable[..., Sequence[Any]]
    texts: Callable[[Any], tuple[str, ...]]
    """What a test row must not share with a training row."""
    line: Callable[[Any, float], str]
    """Of a row and the highest label, which becomes 1."""
    head: str = ""
    sentences: Callable[[Any], tuple[str, ...]] | None = None
    """What a student of vectors reads of a row, where that is not `texts`."""


def _json(**fields: Any) -> str:
    return json.dumps(fields, ensure_ascii=False)


KINDS = {
    "pairs": Kind(
        "tsv",
        read_pairs,
        lambda row: (row.text1, row.text2),
        lambda row, highest: f"{row.text1}\t{row.text2}\t{row.label / highest:g}",
        head="text1\ttext2\tscore\n",
    ),
    "classes": Kind(
        "jsonl", read_classes, lambda row: (row.text,), lambda row, _: _json(text=row.text, label=row.labels[0])
    ),
    "sources and targets": Kind(
        "jsonl",
        read_seq2seq,
        lambda row: (row.source, row.target),
        lambda row, _: _json(source=row.source, target=row.target),
    ),
    "texts": Kind("txt", read_texts, lambda row: (row,), lambda row, _: row),
    # whole dialogues: turns such as "yes" are everywhere
    "dialogues": Kind(
        "jsonl",
        read_dialogues,
        lambda turns: ("\n".join(turns),),
        lambda turns, _: _json(turns=turns),
        sentences=lambda turns: turns,
    ),
}


def check_sources(member: Member, folder: Path) -> list[str]:
    """What a user should know of the files in `folder` before the build.

    Raises:
        ValueError: a file is missing; says which, and where it comes from.
    """
    notes = []
    for source in member.sources.values():
        path = folder / source.file
        if not path.is_file():
            raise ValueError(f"{path} is missing: {source.holds} from {source.repository} (licence: {source.licence})")
        if hashlib.sha256(path.read_bytes()).hexdigest() != source.sha256:
            notes.append(f"{path} is not the file that the scores in docs/zoo.md are of")
    return notes


def prepare(member: Member, sources: Path, out: Path) -> None:
    """Write a file per training source, one of dev rows, a file per test, and texts.txt where the member wants one.

    Grades are from 0 to 1. A training row with a text of a test is left out.
    """
    rows = {
        name: KINDS[source.kind].read(str(sources / source.file), columns=source.columns)
        for name, source in member.sources.items()
    }
    out.mkdir(parents=True, exist_ok=True)
    seen: set[str] = set()
    for name, part in member.tests.items():
        # all of the source's test rows count as seen, also those that are not scored
        whole, source = part._replace(first=None, every=1).of(rows[part.source]), SOURCES[part.source]
        seen.update(*map(KINDS[source.kind].texts, whole))
        _write(out / test_name(name, source.kind), part.of(rows[part.source]), source)
    dev: list[str] = []
    held_out = set(seen)
    draw = random.Random(0)
    for name, part in member.train.items():
        source = SOURCES[part.source]
        kind = KINDS[source.kind]
        kept = [row for row in part.of(rows[part.source]) if seen.isdisjoint(kind.texts(row))]
        draw.shuffle(kept)
        held, kept = kept[: member.num_dev[name]], kept[member.num_dev[name] :]
        dev += [kind.line(row, source.highest) for row in held]
        held_out.update(*map(kind.texts, held))
        _write(out / f"{name}.{kind.suffix}", kept, source)
    if member.train:
        kind = KINDS[SOURCES[next(iter(member.train.values())).source].kind]
        _write_lines(out / f"dev.{kind.suffix}", dev, kind.head)
    texts: dict[str, None] = {}
    for part in member.texts:
        kind = KINDS[SOURCES[part.source].kind]
        for row in part.of(rows[part.source]):
            texts |= dict.fromkeys((kind.sentences or kind.texts)(row))
    if texts:
        _write_lines(out / "texts.txt", (text for text in texts if text not in held_out))


def test_name(test: str, kind: str) -> str:
    """The file with the rows of a test."""
    return f"test {test}.{KINDS[kind].suffix}"


def test_files(member: Member, data: Path) -> dict[str, tuple[str, Path]]:
    """Test -> the kind of its rows and their file, in the folder of the prepared files."""
    kinds = {test: SOURCES[part.source].kind for test, part in member.tests.items()}
    return {test: (kind, data / test_name(test, kind)) for test, kind in kinds.items()}


def described(member: Member, files: Mapping[str, tuple[str, Path]]) -> dict[str, dict[str, Any]]:
    """Test -> what run.json says of its rows, of the files that `test_files` names."""
    return {
        test: describe(str(path), None, KINDS[kind].read(str(path)))
        | {"source": SOURCES[member.tests[test].source].file}
        for test, (kind, path) in files.items()
    }


def _write(path: Path, rows: Iterable[Any], source: Source) -> None:
    kind = KINDS[source.kind]
    _write_lines(path, (kind.line(row, source.highest) for row in rows), kind.head)


def _write_lines(path: Path, lines: Iterable[str], head: str = "") -> None:
    path.write_text(head + "".join(f"{line}\n" for line in lines), encoding="utf-8")
