"""How a caller selects and loads recipes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """The recipes to plan and how to load them.

    Attributes:
        paths: Recipe files.
        overrides: ``dotted.key=value`` as for ``--set``.
        offline: Do not contact the hub.
        allow_outside: Accept paths outside the project's root; None reads the environment.
        locked: Plan according to the recipes' locks.
    """

    paths: tuple[Path, ...] = ()
    overrides: tuple[str, ...] = ()
    offline: bool = False
    allow_outside: bool | None = None
    locked: bool = False
