"""Raises in one sentence where transformers is too old for the code beside it.

Imported before all else, for older versions lack names that the other files import.
"""

import transformers

OLDEST = "5.4"  # see docs/hub.md
OLDEST_AS_CODE = "5.19"  # some older versions refuse a class that comes as code to the stock config of a folder


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2])


def refuse_older_than(oldest: str) -> None:
    """Raise ImportError, in one sentence, unless transformers is `oldest` ("5.4") or later."""
    if _numbers(transformers.__version__) < _numbers(oldest):
        raise ImportError(
            f"the code of this model needs transformers {oldest} or later, and {transformers.__version__} is "
            f"installed: pip install 'transformers>={oldest}'"
        )


refuse_older_than(OLDEST)
