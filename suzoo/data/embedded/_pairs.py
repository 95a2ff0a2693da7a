"""Graded sentence pairs, generated: `embedded:pairs_zh` and `embedded:pairs_en`. Synthetic.

A sentence tells of an event: who does what to whom, with how many of which things, when, where, and whether it happened
at all. The second sentence of a pair tells of the same event or of one that differs in a known way:

    5  the same event
    4  another time or another place
    3  another number or another kind of things
    2  denied, or the two people have exchanged roles
    1  the same people do something else
    0  nothing in common

How many words two sentences share says little about the grade. An event told again gets other words, another sentence
structure, and often the other person as its subject ("Alice sold 3 books to Bruno", "Bruno bought three volumes from
Alice"). A changed event is often told in the words of the first. Train and dev share the words and no template.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from types import ModuleType

from suzoo.data.embedded import _pairs_en, _pairs_zh
from suzoo.data.embedded._draw import below, generator, other

LANGUAGES = {"zh": _pairs_zh, "en": _pairs_en}
SIZES = {"train": 6000, "dev": 800}
FRAMES = ("transfer", "contact", "compare")
# grade -> (share of the pairs, how often the second sentence is told in other words and another structure)
GRADES = {5: (0.25, 1.0), 4: (0.15, 0.7), 3: (0.15, 0.5), 2: (0.25, 0.4), 1: (0.1, 0.3), 0: (0.1, 0.2)}


@dataclass(frozen=True, slots=True)
class Event:
    """Every field but `frame` and `happened` is an index into the word lists of the language."""

    frame: str
    sense: int
    a: int
    b: int
    number: int
    thing: int
    time: int
    place: int
    happened: bool


@dataclass(frozen=True, slots=True)
class Telling:
    """How an event becomes a sentence: the template (clause, arrangement), and which of the words for a thing."""

    clause: int
    arrangement: int
    opener: int
    words: tuple[int, ...]


def templates(language: ModuleType, frame: str, split: str) -> list[tuple[int, int]]:
    """(clause, arrangement) of a split. One arrangement in four is kept from each clause for dev."""
    return [
        (clause, arrangement)
        for clause in range(len(language.CLAUSES[frame]))
        for arrangement in range(len(language.ARRANGEMENTS))
        if ((clause + arrangement) % 4 == 3) == (split == "dev")
    ]


def tell(language: ModuleType, event: Event, telling: Telling) -> str:
    """The sentence."""

    def word(words: tuple[str, ...], slot: int) -> str:
        return words[telling.words[slot] % len(words)]

    subject, said, denied = language.CLAUSES[event.frame][telling.clause]
    forms = {form: word(words, 0) for form, words in language.SENSES[event.frame][event.sense].items()}
    things = word(language.OBJECTS[event.thing], 1).format(n=word(language.NUMBERS[event.number], 2))
    slots = {
        "a": word(language.NAMES[event.a], 0),
        "b": word(language.NAMES[event.b], 0),
        "things": things,
        "no": word(language.NEGATIONS, 3),
        "time": word(language.TIMES[event.time], 4),
        "place": word(language.PLACES[event.place], 5),
        **forms,
    }
    slots["subject"] = subject.format(**slots)
    slots["said"] = (said if event.happened else denied).format(**slots)
    return language.finish(
        language.OPENERS[telling.opener] + language.ARRANGEMENTS[telling.arrangement].format(**slots)
    )


def draw_event(rng: random.Random, language: ModuleType) -> Event:
    frame = FRAMES[below(rng, len(FRAMES))]
    a = below(rng, len(language.NAMES))
    return Event(
        frame=frame,
        sense=below(rng, len(language.SENSES[frame])),
        a=a,
        b=other(rng, a, len(language.NAMES)),
        number=below(rng, len(language.NUMBERS)),
        thing=below(rng, len(language.OBJECTS)),
        time=below(rng, len(language.TIMES)),
        place=below(rng, len(language.PLACES)),
        happened=frame == "compare" or rng.random() < 0.7,
    )


def _change(rng: random.Random, language: ModuleType, event: Event, grade: int) -> Event:
    """An event whose likeness to `event` is `grade`."""
    first = rng.random() < 0.5
    if grade == 5:
        return event
    if grade == 4 and first:
        return replace(event, time=other(rng, event.time, len(language.TIMES)))
    if grade == 4:
        return replace(event, place=other(rng, event.place, len(language.PLACES)))
    if grade == 3 and first:
        return replace(event, number=other(rng, event.number, len(language.NUMBERS)))
    if grade == 3:
        return replace(event, thing=other(rng, event.thing, len(language.OBJECTS)))
    if grade == 2 and (first or event.frame == "compare"):
        return replace(event, a=event.b, b=event.a)
    if grade == 2:
        return replace(event, happened=not event.happened)
    another = draw_event(rng, language)
    if grade == 1:
        while (another.frame, another.sense) == (event.frame, event.sense):
            another = draw_event(rng, language)
        return replace(another, a=event.a, b=event.b, time=event.time, place=event.place)
    while {another.a, another.b} & {event.a, event.b} or another.time == event.time or another.place == event.place:
        another = draw_event(rng, language)
    return another


def draw_telling(rng: random.Random, language: ModuleType, frame: str, split: str) -> Telling:
    choices = templates(language, frame, split)
    clause, arrangement = choices[below(rng, len(choices))]
    return Telling(clause, arrangement, below(rng, len(language.OPENERS)), tuple(below(rng, 2) for _ in range(6)))


def pairs(language: str, split: str) -> list[dict]:
    """Rows with `text1`, `text2` and `label` (0 to 5), the same on every machine.

    Args:
        language: zh or en.
        split: train (6000 rows) or dev (800 rows).
    """
    words = LANGUAGES[language]
    rng = generator(language, split)
    rows = []
    for _ in range(SIZES[split]):
        draw, grade = rng.random(), 5
        for grade, (share, _) in GRADES.items():  # noqa: B007
            draw -= share
            if draw < 0:
                break
        event = draw_event(rng, words)
        while grade == 3 and event.frame != "transfer":
            event = draw_event(rng, words)
        changed = _change(rng, words, event, grade)
        telling = draw_telling(rng, words, event.frame, split)
        if rng.random() < GRADES[grade][1]:
            again = draw_telling(rng, words, changed.frame, split)
            while again.clause == telling.clause:
                again = draw_telling(rng, words, changed.frame, split)
            # mostly the other word for each thing, sometimes the same
            again = replace(again, words=tuple((w + (rng.random() < 0.8)) % 2 for w in telling.words))
        else:
            again = telling
        texts = [tell(words, event, telling), tell(words, changed, again)]
        if rng.random() < 0.5:
            texts.reverse()
        rows.append({"text1": texts[0], "text2": texts[1], "label": float(grade)})
    return rows
