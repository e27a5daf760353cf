"""What a lock says instead of this machine and the hub, while it is in force.

Planning asks two things outside the recipe's files: what is installed here, and which commit a branch is. Whoever
plans for a lock states both with :func:`use_pins`; nobody else notices.
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
    """What is settled.

    Attributes:
        commits: Of hub sources.
        packages: Versions by distribution, by environment (:data:`EMBEDDED`, ``tensorrt-llm 1.2``).
    """

    commits: Commits = field(default_factory=dict)
    packages: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


_CURRENT: ContextVar[Pins | None] = ContextVar("pins", default=None)


@contextmanager
def use_pins(pins: Pins) -> Iterator[None]:
    """Let ``pins`` hold in this context."""
    token = _CURRENT.set(pins)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def commit(repo: str, revision: str | None) -> str | None:
    """The commit that is settled for a branch or tag (None: ``main``); None where nothing is."""
    current = _CURRENT.get()
    return None if current is None else current.commits.get((repo, revision or "main"))


def package(name: str, environment: str = EMBEDDED) -> str | None:
    """The version that is settled for a distribution; None where nothing is."""
    return (packages(environment) or {}).get(name)


def packages(environment: str) -> Mapping[str, str] | None:
    """All versions that are settled for an environment; None where nothing is."""
    current = _CURRENT.get()
    return None if current is None else current.packages.get(environment)
