"""Families: one module each, found by name.

A family that is named in the schema but has no module here validates and says "not built yet" at plan time.
"""

from __future__ import annotations

import importlib
from typing import cast

from mmbuild.families.base import (
    Derivation,
    Family,
    FamilyError,
    LlmFacts,
    ModelFacts,
    VisualFacts,
)

__all__ = [
    "MODULES",
    "Derivation",
    "Family",
    "FamilyError",
    "LlmFacts",
    "ModelFacts",
    "VisualFacts",
    "family",
]

MODULES: dict[str, str] = {
    "llava": "mmbuild.families.llava",
}


def family(name: str) -> Family:
    """The family called ``name``.

    Raises:
        KeyError: No module is registered for it (yet).
    """
    return cast(Family, importlib.import_module(MODULES[name]))
