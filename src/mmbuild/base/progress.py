"""Progress callback type."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, float | None], None]


def silent(message: str, fraction: float | None) -> None:
    """Ignore progress."""
