"""Names that ``engine.backend`` may have: those of mmbuild, and those that installed distributions add."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

BUILT_IN: Mapping[str, str] = {
    "tensorrt-llm": "mmbuild.backends.tensorrt_llm.backend:BACKEND",
    "torch": "mmbuild.backends.torch.backend:BACKEND",
    "hf": "mmbuild.backends.hf.backend:BACKEND",
}
"""A row for each backend of mmbuild: ``module:OBJECT`` by name."""

GROUP = "mmbuild.backends"
"""The group of entry points."""


@cache
def added() -> Mapping[str, str]:
    """``module:OBJECT`` by name, of installed distributions. Takes tens of milliseconds, so it is asked last."""
    from importlib.metadata import entry_points

    return {entry.name: entry.value for entry in entry_points(group=GROUP)}


def names() -> tuple[str, ...]:
    """All backends, those of mmbuild first."""
    return (*BUILT_IN, *(name for name in added() if name not in BUILT_IN))
