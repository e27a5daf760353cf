"""What transformers exports."""

from __future__ import annotations

from functools import cache


@cache
def transformers_names() -> frozenset[str] | None:
    """All names; None where transformers is not installed.

    Importing it takes a second, and listing it a tenth: ask only about classes that are not the families' usual ones.
    """
    try:
        import transformers
    except ImportError:
        return None
    return frozenset(dir(transformers))
