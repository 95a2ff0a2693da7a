"""docs/methods.md names files that are there, and every article that the project follows."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
ARTICLES = set(
    [
        "6794",
        "7259",
        "7302",
        "7387",
        "7718",
        "7521",
        "7643",
        "7681",
        "7708",
        "7888",
        "9660",
        "4014",
        "7466",
        "8634",
        "9590",
        "6387",
        "7500",
        "7533",
        "7546",
        "7661",
        "7695",
        "8847",
        "8860",
        "9341",
        "9324",
        "9359",
        "9431",
        "9593",
        "9526",
        "9473",
        "8907",
        "8896",
        "8870",
        "8656",
        "8586",
        "8496",
        "6933",
    ]
)


def test_the_page_is_true():
    page = (ROOT / "docs/methods.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| ") and not line.startswith("| kexue")]
    assert all(row.count(" | ") == 5 for row in rows)
    begins = ("holds: ", "holds in part: ", "does not hold: ", "cannot be judged here: ", "not yet", "see ")
    with_code = [row.split(" | ") for row in rows if "no code:" not in row]
    unjudged = [fields[0] for fields in with_code if not fields[5].startswith(begins)]
    assert unjudged == []
    assert all(fields[4].strip() for fields in with_code)
    named = " ".join(row.split(" | ")[0] for row in rows)
    assert [article for article in ARTICLES if article not in named] == []
    paths = re.findall(r"`((?:suzoo|tests)/[\w/]+\.py)`|python (reproductions/\w+\.py)", page)
    assert [path for pair in paths for path in pair if path and not (ROOT / path).exists()] == []
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "suzoo").rglob("*.py"))
    names = {name for row in rows for name in re.findall(r"`(\w+)`", row.split(" | ")[2])}
    assert [name for name in names if name not in code] == []
