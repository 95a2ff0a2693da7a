"""Readers for models that write: dialogues, and sources with their targets. Arguments as in `suzoo.data.readers`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from suzoo.data._columns import Odd
from suzoo.data._errors import DataError
from suzoo.data._fields import Columns, pick_columns
from suzoo.data._values import plain_lists, plain_texts, text_of, value_of
from suzoo.data.readers import Convert, Kind, Source, read
from suzoo.data.stored import Layout

# field -> the names by which it goes
DIALOGUE = {"turns": ("turns", "dialog", "dialogue", "messages", "conversation", "conversations", "utterances")}
SEQ2SEQ = {
    "source": ("source", "src", "text", "abstract", "article", "document", "content", "input"),
    "target": ("target", "tgt", "title", "headline", "summary", "output"),
}


@dataclass(frozen=True, slots=True)
class SourceTarget:
    """A text and the one to be written from it: article and title, text with typos and without, two languages."""

    source: str
    target: str


DIALOGUES = Layout[tuple[str, ...]]({"turns": "texts"}, tuple, ("turns",), bare=True)
SOURCES_TARGETS = Layout({"source": "text", "target": "text"}, SourceTarget, ("source", "target"))


def read_dialogues(
    source: Source,
    *,
    split: str | None = None,
    columns: Columns = None,
    skip_bad_rows: bool = False,
    max_rows: int | None = None,
) -> Sequence[tuple[str, ...]]:
    """Dialogues as their turns, two speakers by turns, the first turn by the first speaker.

    The column `turns` holds a list of texts, or of messages `{"role": …, "content": …}` (also `from` and `value`).
    Messages must alternate between two roles: a system message has no place among them.
    """
    return read(source, split, columns, DIALOGUE_ROWS, skip_bad_rows, max_rows)


def read_seq2seq(
    source: Source,
    *,
    split: str | None = None,
    columns: Columns = None,
    skip_bad_rows: bool = False,
    max_rows: int | None = None,
) -> Sequence[SourceTarget]:
    """Sources and targets; text and title, article and summary and the like are recognised without `columns`."""
    return read(source, split, columns, SEQ2SEQ_ROWS, skip_bad_rows, max_rows)


def _plan_dialogues(where: str, available: list[str], mapping: dict[str, str]) -> Convert[tuple[str, ...]]:
    column = pick_columns(where, DIALOGUE, available, mapping)["turns"]
    return Convert(
        lambda at, row: [_turns(at, value_of(at, row, "turns", column))],
        lambda columns: (_plain_turns(columns[column]),),
    )


def _plan_seq2seq(where: str, available: list[str], mapping: dict[str, str]) -> Convert[SourceTarget]:
    fields = pick_columns(where, SEQ2SEQ, available, mapping)
    return Convert(
        lambda at, row: [SourceTarget(*(text_of(at, row, field, fields[field]) for field in SEQ2SEQ))],
        lambda columns: [plain_texts(columns[fields[field]]) for field in SEQ2SEQ],
    )


DIALOGUE_ROWS = Kind("dialogues", list(DIALOGUE), _plan_dialogues, DIALOGUES)
SEQ2SEQ_ROWS = Kind("seq2seq", list(SEQ2SEQ), _plan_seq2seq, SOURCES_TARGETS)


def _turns(where: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) < 2:
        raise DataError(f"{where}: turns must be a list of two or more, not {value!r:.60}")
    if not any(isinstance(turn, dict) for turn in value):
        return tuple(text_of(where, {"turn": turn}, f"turn {n}", "turn") for n, turn in enumerate(value, start=1))
    role, text = (
        ("role", "content")
        if any(isinstance(turn, dict) and "content" in turn for turn in value)
        else ("from", "value")
    )
    texts, roles = [], []
    for number, message in enumerate(value, start=1):
        name = f"message {number}"
        if not isinstance(message, dict):
            raise DataError(f"{where}: {name} is not an object with role and content, as others are")
        roles.append(text_of(where, message, f"the {role} of {name}", role))
        texts.append(text_of(where, message, f"the {text} of {name}", text))
    if len(set(roles)) > 2 or any(role == following for role, following in pairwise(roles)):
        raise DataError(f"{where}: messages must alternate between two roles, not go {', '.join(roles)}"[:300])
    return tuple(texts)


def _plain_turns(values: Sequence[Any]) -> Sequence[list[str]]:
    """`_turns` of a column."""
    if set(map(type, values)) != {list} or not all(values):
        raise Odd
    if type(values[0][0]) is not dict:
        return plain_lists(values, at_least=2)
    role, text = ("role", "content") if "content" in values[0][0] else ("from", "value")
    try:
        roles, texts = ([[message[name] for message in turns] for turns in values] for name in (role, text))
    except (KeyError, TypeError):
        raise Odd from None
    if role == "from" and any("content" in message for turns in values for message in turns):
        raise Odd
    plain_lists(roles)
    if any(len({*of[::2]}) + len({*of[1::2]}) != 2 or of[0] == of[1] for of in roles):
        raise Odd
    return plain_lists(texts, at_least=2)
