"""An extension of griffe, which reads the docstrings for the site: formulas of `.. math::` become blocks of code."""

from __future__ import annotations

import re

import griffe

FORMULA = re.compile(r"^\.\. math:: (.+(?:\n[ \t]+.+)*)", re.MULTILINE)


class FormulasAsCode(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        if obj.docstring:
            obj.docstring.value = FORMULA.sub(r"```latex\n\1\n```", obj.docstring.value)
