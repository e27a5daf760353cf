"""The nearest spelling of what was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


def nearest(word: str, words: Sequence[str], cutoff: float = 0.6) -> str | None:
    """The one of ``words`` that looks most like ``word``, else one that holds it, else None.

    ``cutoff`` is difflib's: how alike two words must be, 0 to 1.
    """
    found = difflib.get_close_matches(word, words, n=1, cutoff=cutoff)
    if found:
        return found[0]
    holding = (item for item in words if len(word) >= 3 and word.lower() in item.lower())
    return next(holding, None)
