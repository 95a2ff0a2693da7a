"""The sentences of docstrings, without what is no prose: code, formulas, tables."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

SECTION = re.compile(r"^(Args|Attributes|Returns|Raises|Yields|Shapes):$")
ENTRY = re.compile(r"^(\*{0,2}\w[\w`*, ]*|`.*?`):\s+")  # "name, other: what it is" of an argument
ITEM = re.compile(r"^([-*]|\d\.) ")
END = re.compile(r"(?<=[.!?])[\"')]*\s+(?=[^a-z])")


def docstrings(path: Path) -> Iterator[tuple[str, str]]:
    """(name, docstring) of a module, its classes and its functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            text = ast.get_docstring(node)
            if text:
                yield getattr(node, "name", "the file"), text


def pieces(text: str) -> list[str]:
    """Paragraphs, items of lists and entries of sections; indented blocks, tables and formulas are left out."""
    found: list[list[str]] = [[]]
    in_section = is_block = False
    for line in text.splitlines():
        stripped, indent = line.strip(), len(line) - len(line.lstrip())
        if not stripped or SECTION.match(line):
            in_section = (in_section and not stripped) or bool(SECTION.match(line))
            is_block = False
            found.append([])
            continue
        in_section = in_section and indent > 0
        is_block = is_block or (not in_section and indent >= 4) or stripped.startswith((".. ", "|"))
        if is_block or re.search(r"\S   +\S", line):
            continue
        if ITEM.match(stripped) or (in_section and indent == 4):
            found.append([])
        found[-1].append(ENTRY.sub("", stripped) if in_section and indent == 4 else stripped)
    return [" ".join(lines) for lines in found if lines]


def sentences(text: str) -> Iterator[str]:
    for piece in pieces(text):
        yield from END.split(piece)


def num_words(sentence: str) -> int:
    """Words of prose: code counts as one, numbers and symbols count nothing."""
    return len(re.findall(r"[A-Za-z][A-Za-z'’-]+|\ba\b", re.sub(r"`[^`]*`", " code ", sentence)))
