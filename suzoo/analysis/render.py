"""An explanation in colour: for the terminal, as HTML and as a picture.

Orange adds to the score and blue takes from it. These are two colours of Okabe and Ito's palette that readers with any
kind of colour vision tell apart. The strength of the colour is the size of the value.
"""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from suzoo.analysis.explain import Explanation

FOR, AGAINST = (230, 159, 0), (86, 180, 233)


def _colour(value: float, largest: float) -> tuple[int, int, int]:
    share = min(1.0, abs(value) / largest) if largest else 0.0
    red, green, blue = (round(255 + share * (part - 255)) for part in (FOR if value > 0 else AGAINST))
    return red, green, blue


def _parts(explanation: Explanation) -> Iterable[tuple[str, float, tuple[int, int, int], bool]]:
    """Token as read, value, colour, and whether the second text starts here."""
    largest = max(map(abs, explanation.values), default=0.0)
    for place, (token, value) in enumerate(zip(explanation.tokens, explanation.values, strict=True)):
        yield _readable(token), value, _colour(value, largest), place == explanation.num_first


def _readable(token: str) -> str:
    """Without the marks by which tokenizers write spaces."""
    return token.replace("Ġ", " ").replace("▁", " ").replace("Ċ", "\\n") or token


def to_terminal(explanation: Explanation) -> str:
    """The tokens on coloured ground (24 bit), black on it; then the score."""
    line = ""
    for token, _, (red, green, blue), starts_second in _parts(explanation):
        line += "\n" * starts_second + f"\x1b[48;2;{red};{green};{blue}m\x1b[38;2;0;0;0m {token} \x1b[0m"
    return f"{line}\n{summary(explanation)}"


def summary(explanation: Explanation) -> str:
    scores = f"{explanation.score:.4f}, without the words {explanation.baseline_score:.4f}"
    return f"{explanation.target}: {scores}; orange adds, blue takes; completeness error {explanation.error:+.1e}"


def tokens_to_html(explanation: Explanation) -> str:
    """The tokens as coloured spans with the values as tooltips, for a page that has its own styles."""
    spans = []
    for token, value, (red, green, blue), starts_second in _parts(explanation):
        spans.append("<br>" * starts_second)
        text = html.escape(token)
        spans.append(f'<span style="background:rgb({red},{green},{blue})" title="{value:+.4f}">{text}</span>')
    return "".join(spans)


def to_html(explanation: Explanation) -> str:
    """A page of its own."""
    return (
        '<!DOCTYPE html>\n<html><head><meta charset="utf-8"><title>suzoo explain</title><style>'
        "body{font:1.1em sans-serif;margin:2em;color:#000;background:#fff}span{padding:.2em .3em;white-space:pre-wrap;"
        f"line-height:2}}</style></head><body>\n<p>{tokens_to_html(explanation)}</p>\n<p>{html.escape(summary(explanation))}</p>\n"
        "</body></html>\n"
    )


def save_png(explanation: Explanation, path: str | Path) -> None:
    """A bar for each token.

    Raises:
        ValueError: no installed font has all characters of the tokens.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    parts = list(_parts(explanation))
    labels = [token.strip() or "␣" for token, *_ in parts]
    family = font_for("".join(labels))
    with matplotlib.rc_context({"font.family": [family], "text.usetex": False}):
        figure = Figure(figsize=(6, 0.8 + 0.26 * len(parts)), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        colours = [tuple(part / 255 for part in (FOR if value > 0 else AGAINST)) for _, value, _, _ in parts]
        axes.barh(range(len(parts)), [value for _, value, _, _ in parts], color=colours)
        axes.set_yticks(range(len(parts)), [label.replace("$", r"\$") for label in labels])
        axes.invert_yaxis()
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_xlabel(f"adds to the {explanation.target}".replace("$", r"\$"))
        figure.savefig(path, dpi=150)


def font_for(text: str) -> str:
    """The name of an installed font that has every character, matplotlib's default first.

    Raises:
        ValueError: there is none.
    """
    from matplotlib import font_manager

    needed = {ord(character) for character in text if unicodedata.category(character)[0] not in "CZ"}
    # Last Resort has boxes for everything
    fonts = [font for font in font_manager.fontManager.ttflist if not font.name.startswith("Last Resort")]
    fonts.sort(key=lambda font: font.name != "DejaVu Sans")
    best: set[int] = needed
    for font in fonts:
        missing = needed - font_manager.get_font(font.fname).get_charmap().keys()
        if not missing:
            return font.name
        best = min(best, missing, key=len)
    raise ValueError(
        f"no installed font has {chr(min(best))!r}: install one for the language (Debian: fonts-noto-cjk, and delete "
        "matplotlib's font cache), or write HTML"
    )
