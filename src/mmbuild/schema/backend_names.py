"""Names that ``engine.backend`` may have: those of mmbuild, and those that installed distributions add."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

GROUP = "mmbuild.backends"
"""The group of entry points."""


@cache
def added() -> Mapping[str, str]:
    """``module:OBJECT`` by name, of installed distributions. Takes tens of milliseconds, so it is asked last."""
    from importlib.metadata import entry_points

    return {entry.name: entry.value for entry in entry_points(group=GROUP)}
