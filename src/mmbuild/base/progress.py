"""How long work tells how far it is."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, float | None], None]


def silent(message: str, fraction: float | None) -> None:
    """For callers that want no progress."""
