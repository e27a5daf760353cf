"""Which files in and next to a directory are recipes: not ``mmbuild.yaml``, which marks the root of a project."""

from __future__ import annotations

import re
from pathlib import Path

from mmbuild.base.files import FileRefusedError, read_file
from mmbuild.base.limits import YAML_TEXT

SUFFIXES = (".yaml", ".yml")
MARKER = "mmbuild.yaml"
_RECIPE_KEY = re.compile(rb"^(version|extends|name|model|engine)[ \t]*:", re.MULTILINE)


def recipe_next_to(directory: Path) -> Path | None:
    """The recipe with the name of ``directory`` next to it: ``mine.yaml`` for the model ``mine``."""
    if not directory.name:
        return None
    named = (directory.with_name(directory.name + suffix) for suffix in SUFFIXES)
    return next((path for path in named if path.is_file()), None)


def is_project_marker(path: Path) -> bool:
    """Whether ``path`` is an ``mmbuild.yaml`` that only marks a root, not a recipe of that name."""
    if path.name != MARKER:
        return False
    try:
        return _RECIPE_KEY.search(read_file(path, YAML_TEXT)) is None
    except (OSError, FileRefusedError):
        return False  # reported when it is read as a recipe
