"""Collect what every experiment claims and found into README.md: `python reproductions/report.py`.

The text is that of the experiments' docstrings, so that nothing is told twice: Claim, command, Here, Verdict. A verdict
begins with one of `VERDICTS`; what was not measured yet says where its numbers will stand.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).resolve().parent
VERDICTS = ("holds", "holds in part", "does not hold", "cannot be judged here")
HEAD = """# Experiments

One script for each article's question. The docstring says what the article claims, how to run it and on what;
`python reproductions/<name>.py --data ...` trains every row of the table with three seeds through the scripts of
`training/` (finished runs are kept) and prints mean ± standard deviation. They are small, minutes on one CPU core, and
most start from random weights: they show whether an effect is there at that size, not what a pretrained model gains.
Tables, also of those that did not come out as claimed, are in [training/LOG.md](../training/LOG.md); the data is not in
the repository. `python reproductions/report.py` wrote this page from the docstrings.

"""


class Experiment(NamedTuple):
    name: str
    title: str
    articles: list[str]
    claim: str
    command: str
    verdict: str
    """One of `VERDICTS`, or "not yet"."""
    found: str


def read(path: Path) -> Experiment:
    """What the docstring of a script says.

    Raises:
        ValueError: it lacks the claim, the command or the verdict.
    """
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", text)]
    claim = next((part for part in paragraphs if re.match(r"Claims?\b", part)), None)
    verdict = next((part.partition(": ")[2] for part in paragraphs if part.startswith("Verdict: ")), None)
    command = re.search(rf"^ +(.*python reproductions/{path.name}.*)$", text, re.MULTILINE)
    if not (claim and verdict and command):
        raise ValueError(f"{path.name}: its docstring needs paragraphs Claim and Verdict, and the command")
    word = next((word for word in VERDICTS if verdict.startswith(f"{word}: ")), "not yet")
    found = verdict if word == "not yet" else verdict.removeprefix(f"{word}: ")
    articles = sorted(set(re.findall(r"(?<![.\d])[4-9]\d{3}(?![.\d]\d|\d)", claim)))
    claim = re.sub(r"^Claims?( \([^)]*\))?: ", "", claim)
    return Experiment(path.stem, paragraphs[0], articles, claim, command[1].strip(), word, found)


def page() -> str:
    """README.md."""
    experiments = [
        read(path)
        for path in sorted(FOLDER.glob("*.py"))
        if not path.name.startswith("_") and path.name != Path(__file__).name
    ]
    order = [*VERDICTS, "not yet"]
    rows = ["| experiment | articles | verdict |", "|---|---|---|"]
    parts = []
    for e in sorted(experiments, key=lambda e: (order.index(e.verdict), e.name)):
        rows.append(f"| [{e.name}](#{e.name}) | {', '.join(e.articles) or '-'} | {e.verdict} |")
        figure = f"\n![{e.name}](figures/{e.name}.png)\n" if (FOLDER / f"figures/{e.name}.png").exists() else ""
        parts.append(
            f"## {e.name}\n\n{e.title}\n\n**Claim.** {e.claim}\n\n    {e.command}\n\n"
            f"**Verdict: {e.verdict}.** {e.found}\n{figure}"
        )
    return HEAD + "\n".join(rows) + "\n\n" + "\n".join(parts)


def main() -> None:
    (FOLDER / "README.md").write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
