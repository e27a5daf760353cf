"""Names of the directories that mmbuild keeps next to builds, which no build can have."""

from __future__ import annotations

REJECTED = ".refused"
"""Follows the name of a build: its engine that failed a check."""
UNFINISHED = ".mmbuild-"
"""Between the name of a build, which begins with a dot, and a process id: an engine that is being installed."""


def reserved_part(name: str) -> str | None:
    """The part of ``name`` because of which it may be a directory of mmbuild; None if a build can have the name."""
    if name.endswith(REJECTED):
        return REJECTED
    return UNFINISHED if UNFINISHED in name else None
