"""Says which keys of a recipe name a source that fails while the recipe is planned."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mmbuild.models.errors import SourceError


@contextmanager
def blaming(*keys: str) -> Iterator[None]:
    """Set ``blame`` of a :class:`SourceError` from the block to ``keys``."""
    try:
        yield
    except SourceError as error:
        error.blame = keys
        raise
