"""vocab.txt and texts as bert4keras reads them: what its `load_vocab` and `Tokenizer` do, in plain Python."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from pathlib import Path

from suzoo.data._errors import DataError

# Google's ranges of Chinese characters
_IDEOGRAPHS = (
    (0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F), (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF), (0x2F800, 0x2FA1F),
)  # fmt: skip
LONGEST_WORD = 200  # characters; longer ones are [UNK]


def read_vocabulary(path: str | Path) -> list[str]:
    """The tokens of a vocab.txt, one for each of its lines.

    Lines end at \\n alone, a token is what stands before the first white space, a byte order mark is dropped. A line of
    nothing else keeps its white space as a token, as U+2028 in Google's Chinese vocabulary. Where a token stands twice,
    the later line counts, and the earlier one is called [line n]; so is an empty line.

    Raises:
        DataError: the file is not UTF-8.
    """
    try:
        lines = Path(path).read_bytes().decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 (byte {error.start}): convert it, for example with iconv") from error
    if lines[-1] == "":
        lines.pop()
    tokens = [(line.split() or [line.rstrip("\r")])[0] for line in lines]
    last = {token: place for place, token in enumerate(tokens)}
    return [token if token and last[token] == place else f"[line {place + 1}]" for place, token in enumerate(tokens)]


def is_cased(tokens: list[str]) -> bool:
    """Whether a vocabulary has capitals outside of brackets, which text in lower case never reaches."""
    return any("A" <= character <= "Z" for token in tokens if token[:1] != "[" for character in token)


def tokenize(text: str, vocabulary: Mapping[str, int], *, lower_case: bool) -> list[int]:
    """Ids of a text without [CLS] and [SEP], as `Tokenizer(vocabulary, do_lower_case=lower_case)` gives them."""
    if lower_case:
        text = unicodedata.normalize("NFD", text.lower())
        text = "".join(character for character in text if unicodedata.category(character) != "Mn")
    spaced = ""
    for character in text:
        category = unicodedata.category(character)
        if _is_punctuation(character) or any(low <= ord(character) <= high for low, high in _IDEOGRAPHS):
            spaced += f" {character} "
        elif character in " \n\r\t" or category == "Zs":
            spaced += " "
        elif ord(character) not in (0, 0xFFFD) and category not in ("Cc", "Cf"):
            spaced += character
    return [token_id for word in spaced.split() for token_id in _pieces(word, vocabulary)]


def _pieces(word: str, vocabulary: Mapping[str, int]) -> list[int]:
    """The longest match first; [UNK] for a word that has none somewhere."""
    ids, start, unknown = [], 0, [vocabulary["[UNK]"]]
    while start < len(word) <= LONGEST_WORD:
        ends = range(len(word), start, -1)
        found = next((end for end in ends if "##" * (start > 0) + word[start:end] in vocabulary), None)
        if found is None:
            return unknown
        ids.append(vocabulary["##" * (start > 0) + word[start:found]])
        start = found
    return ids or unknown


def _is_punctuation(character: str) -> bool:
    code = ord(character)
    ascii_sign = 33 <= code <= 47 or 58 <= code <= 64 or 91 <= code <= 96 or 123 <= code <= 126
    return ascii_sign or unicodedata.category(character).startswith("P")
