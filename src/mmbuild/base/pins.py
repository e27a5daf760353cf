"""Locked versions and commits that replace those of this machine and the hub while planning.

Planning depends on two things besides the recipe's files: the installed packages, and the commit of a branch. Code
that plans with a lock sets both with :func:`use_pins`; other code is not affected.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

Commits = Mapping[tuple[str, str], str]
"""Commit by (``owner/name``, branch or tag)."""

EMBEDDED = "torch"
"""The environment of the embedded backend; others are named ``tensorrt-llm <version>``."""


@dataclass(frozen=True, slots=True)
class Pins:
    """Pinned values.

    Attributes:
        commits: Commits of hub sources.
        packages: Versions by distribution, by environment (:data:`EMBEDDED`, ``tensorrt-llm 1.2``).
    """

    commits: Commits = field(default_factory=dict)
    packages: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


_CURRENT: ContextVar[Pins | None] = ContextVar("pins", default=None)


@contextmanager
def use_pins(pins: Pins) -> Iterator[None]:
    """Use ``pins`` in this context."""
    token = _CURRENT.set(pins)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def commit(repo: str, revision: str | None) -> str | None:
    """Return the pinned commit of a branch or tag (None: ``main``), or None if it is not pinned."""
    current = _CURRENT.get()
    return None if current is None else current.commits.get((repo, revision or "main"))


def package(name: str, environment: str = EMBEDDED) -> str | None:
    """Return the pinned version of a distribution, or None if it is not pinned."""
    return (packages(environment) or {}).get(name)


def packages(environment: str) -> Mapping[str, str] | None:
    """Return all pinned versions of an environment, or None if there are no pins."""
    current = _CURRENT.get()
    return None if current is None else current.packages.get(environment)
