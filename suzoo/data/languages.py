"""Which languages texts are in, told from their scripts: enough for the metadata of a model card."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

# scripts that stand for one language; Han stands for Chinese where there is no kana beside it
SCRIPTS = {
    "ja": "\u3040-\u30ff",
    "ko": "\uac00-\ud7a3\u1100-\u11ff",
    "zh": "\u3400-\u4dbf\u4e00-\u9fff",
    "th": "\u0e00-\u0e7f",
    "el": "\u0370-\u03ff",
    "he": "\u0590-\u05ff",
    "latin": "A-Za-z\u00c0-\u024f",
    "other": "\u0400-\u04ff\u0600-\u06ff\u0900-\u097f",  # scripts of many languages: nothing is said
}
# words of English that no other language of its script writes so
ENGLISH = frozenset(
    {"the", "and", "of", "that", "with", "are", "this", "have", "from", "not", "for", "they", "you", "it"}
)


def languages_of(rows: Sequence, *, max_rows: int = 1000) -> list[str]:
    """ISO codes of the languages that at least a fifth of the letters are in, the most frequent first.

    Latin letters are English where English words are frequent among them, and else no language is named; nor is it for
    Cyrillic, Arabic and Devanagari letters.

    Args:
        rows: strings, dataclasses, dicts or lists of such.
        max_rows: so many are looked at, evenly spread.
    """
    letters: Counter[str] = Counter()
    words, english = 0, 0
    step = max(1, len(rows) // max_rows)
    for text in _texts(rows[i] for i in range(0, len(rows), step)):
        for script, letters_of in SCRIPTS.items():
            letters[script] += len(re.findall(f"[{letters_of}]", text))
        in_latin = re.findall(f"[{SCRIPTS['latin']}]+", text.lower())
        words += len(in_latin)
        english += sum(word in ENGLISH for word in in_latin)
    if letters["ja"] > 0.1 * letters["zh"]:
        letters["ja"] += letters.pop("zh")
    if words and english >= 0.05 * words:
        letters["en"] = letters.pop("latin")
    total = letters.total()
    return [name for name, count in letters.most_common() if len(name) == 2 and count >= 0.2 * total > 0]


def _texts(rows: Iterable) -> Iterator[str]:
    for row in rows:
        plain: Any = dataclasses.asdict(row) if dataclasses.is_dataclass(row) and not isinstance(row, type) else row
        if isinstance(plain, str):
            yield plain
        elif isinstance(plain, dict):
            yield from _texts(plain.values())
        elif isinstance(plain, list | tuple):
            yield from _texts(plain)
