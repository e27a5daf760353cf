"""Locked versions and commits that replace those of this machine and the hub while planning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

EMBEDDED = "torch"
"""The environment of the embedded backend; others are named ``tensorrt-llm <version>``."""


@dataclass(frozen=True, slots=True)
class Pins:
    """Pinned values; none by default.

    Attributes:
        commits: Commits of hub sources, by (``owner/name``, branch or tag).
        environments: Versions by distribution, by environment (:data:`EMBEDDED`, ``tensorrt-llm 1.2``).
    """

    commits: Mapping[tuple[str, str], str] = field(default_factory=dict)
    environments: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def commit(self, repo: str, revision: str | None) -> str | None:
        """Return the pinned commit of a branch or tag (None: ``main``), or None if it is not pinned."""
        return self.commits.get((repo, revision or "main"))

    def package(self, name: str, environment: str = EMBEDDED) -> str | None:
        """Return the pinned version of a distribution, or None if it is not pinned."""
        return (self.packages(environment) or {}).get(name)

    def packages(self, environment: str) -> Mapping[str, str] | None:
        """Return all pinned versions of an environment, or None if it has none."""
        return self.environments.get(environment)


NO_PINS = Pins()
