"""A picture of shapes and text as SVG: a few kilobytes, the same bytes everywhere, and a ground of its own, so that it
reads in a light and in a dark page. Text stays text: the reader's machine has the fonts, Chinese ones too."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from pathlib import Path

INK, QUIET, GROUND = "#1b1b1b", "#5f5f5f", "#fbfbf9"
# Okabe and Ito's palette, which readers with any colour vision tell apart
BLUE, SKY, GREEN, ORANGE, RED, GREY = "#0072b2", "#56b4e9", "#009e73", "#e69f00", "#d55e00", "#c9c9c6"


class Picture:
    """
    Args:
        width, height: in pixels.
        title: what screen readers say.
    """

    def __init__(self, width: float, height: float, title: str) -> None:
        self.size, self.title, self.parts = (width, height), title, []

    def rect(self, x, y, width, height, fill=GREY, *, stroke="none", round=0, opacity=1) -> None:
        self._add("rect", x=x, y=y, width=width, height=height, fill=fill, stroke=stroke, rx=round, opacity=opacity)

    def circle(self, x, y, radius, fill=INK) -> None:
        self._add("circle", cx=x, cy=y, r=radius, fill=fill)

    def line(self, x1, y1, x2, y2, colour=INK, *, width=1.5, dash=None) -> None:
        self._add("line", x1=x1, y1=y1, x2=x2, y2=y2, stroke=colour, stroke_width=width, stroke_dasharray=dash)

    def arrow(self, x1, y1, x2, y2, colour=INK, *, width=1.5) -> None:
        """A line with a head at its end."""
        length = ((x2 - x1) ** 2 + (y2 - y1) ** 2) ** 0.5 or 1
        along, size = ((x2 - x1) / length, (y2 - y1) / length), min(7, length)
        back = (x2 - size * along[0], y2 - size * along[1])
        side = (-along[1] * size / 2, along[0] * size / 2)
        self.line(x1, y1, *back, colour, width=width)
        head = [(x2, y2), (back[0] + side[0], back[1] + side[1]), (back[0] - side[0], back[1] - side[1])]
        self._add("polygon", points=_points(head), fill=colour)

    def path(self, points: Iterable[tuple[float, float]], colour=INK, *, width=2, dash=None) -> None:
        common = {"stroke_width": width, "stroke_dasharray": dash, "stroke_linejoin": "round"}
        self._add("polyline", points=_points(points), fill="none", stroke=colour, **common)

    def text(self, x, y, text: str, *, size=13, anchor="start", colour=INK, bold=False) -> None:
        self._add(
            "text", text, x=x, y=y, font_size=size, text_anchor=anchor, fill=colour, font_weight=700 if bold else None
        )

    def heading(self, text: str, below: str) -> None:
        """What the picture says, and in a quieter line what it shows."""
        self.text(20, 28, text, size=15, bold=True)
        self.text(20, 46, below, size=12, colour=QUIET)

    def __str__(self) -> str:
        width, height = map(_number, self.size)
        ground = f'<rect width="{width}" height="{height}" rx="8" fill="{GROUND}" stroke="#d9d9d6"/>'
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            f"role=\"img\" font-family=\"system-ui, 'Noto Sans CJK SC', 'PingFang SC', 'Microsoft YaHei', sans-serif\">"
            f"\n<title>{escape(self.title)}</title>\n{ground}\n" + "\n".join(self.parts) + "\n</svg>\n"
        )

    def _add(self, name: str, text: str | None = None, **attributes) -> None:
        usual = {"stroke": "none", "rx": 0, "opacity": 1, "text_anchor": "start", "stroke_dasharray": None}
        said = "".join(
            f' {key.replace("_", "-")}="{value if isinstance(value, str) else _number(value)}"'
            for key, value in attributes.items()
            if value is not None and not (key in usual and value == usual[key])
        )
        self.parts.append(f"<{name}{said}/>" if text is None else f"<{name}{said}>{escape(text, quote=False)}</{name}>")


class Axes:
    """Where numbers lie in a rectangle of a picture, with its frame, ticks and labels.

    Args:
        box: x, y, width, height of the rectangle.
        x, y: (least, greatest) number, and names of the axes in `labels`.
        ticks: (x ticks, y ticks), numbers and what is written there.
    """

    def __init__(self, picture: Picture, box, *, x, y, labels=("", ""), ticks=({}, {})) -> None:
        self.picture, self.box, self.x, self.y = picture, box, x, y
        left, top, width, height = box
        picture.line(left, top + height, left + width, top + height, QUIET, width=1)
        picture.line(left, top, left, top + height, QUIET, width=1)
        for value, name in ticks[0].items():
            place, _ = self.place(value, y[0])
            picture.line(place, top + height, place, top + height + 4, QUIET, width=1)
            picture.text(place, top + height + 17, name, size=11, anchor="middle", colour=QUIET)
        for value, name in ticks[1].items():
            _, place = self.place(x[0], value)
            picture.line(left - 4, place, left, place, QUIET, width=1)
            picture.text(left - 7, place + 4, name, size=11, anchor="end", colour=QUIET)
        picture.text(left + width / 2, top + height + 34, labels[0], size=12, anchor="middle")
        picture.text(left, top - 9, labels[1], size=12)

    def place(self, x: float, y: float) -> tuple[float, float]:
        left, top, width, height = self.box
        across, up = (x - self.x[0]) / (self.x[1] - self.x[0]), (y - self.y[0]) / (self.y[1] - self.y[0])
        return left + width * across, top + height * (1 - up)

    def curve(self, xs: Iterable[float], ys: Iterable[float], colour: str, **options) -> None:
        self.picture.path([self.place(x, y) for x, y in zip(xs, ys, strict=True)], colour, **options)


def save(picture: Picture, script: str) -> Path:
    """Write the picture beside the script that made it, under its name."""
    path = Path(script).with_suffix(".svg")
    path.write_text(str(picture), encoding="utf-8")
    return path


def blend(colour: str, share: float) -> str:
    """The ground with a share of a colour, for values from 0 to 1."""
    share = min(1.0, max(0.0, share))
    pairs = zip(_channels(GROUND), _channels(colour), strict=True)
    return "#" + "".join(f"{round(a + share * (b - a)):02x}" for a, b in pairs)


def _channels(colour: str) -> list[int]:
    return [int(colour[place : place + 2], 16) for place in (1, 3, 5)]


def _points(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{_number(x)},{_number(y)}" for x, y in points)


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
