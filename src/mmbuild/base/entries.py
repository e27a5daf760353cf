"""Objects named by ``module:name``, which are imported when they are needed."""

from __future__ import annotations

import importlib
from typing import Any


def load_entry(entry: str) -> Any:
    """The object that ``module:name`` names.

    Raises:
        ImportError: The module cannot be imported.
        AttributeError: It has no such name.
    """
    module, _, name = entry.partition(":")
    return getattr(importlib.import_module(module), name)
