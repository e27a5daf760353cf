"""Existing paths similar to one that does not exist, for hints."""

from __future__ import annotations

import os
import re
from pathlib import Path

from mmbuild.base.diagnostics import nearest
from mmbuild.base.files import FileRefusedError, entries

_VARIABLE = re.compile(r"\$\{?[A-Za-z_]")
_ADDRESS = re.compile(r"https?:/")
_FETCHED = "addresses are not fetched: download the file, and name it"
_SIMILAR = 0.7
"""Minimum similarity of names, by difflib."""


def near_path(path: Path) -> Path | None:
    """Return the existing path that differs from ``path`` only in its first missing part, by a similar name.

    Args:
        path: Does not exist. A relative path gives a relative path.
    """
    missing = _first_missing(path)
    if missing is None:
        return None
    try:
        names = [item.name for item in entries(missing.parent) if not item.name.startswith(".")]
    except (OSError, ValueError, FileRefusedError):
        return None
    near = nearest(missing.name, names, cutoff=_SIMILAR)
    found = missing.parent / (near or "") / path.relative_to(missing)
    return found if near and os.path.lexists(found) else None


def near_name(path: Path) -> str | None:
    """Return the name in which :func:`near_path` differs from ``path``; a recipe may state the rest differently."""
    near = near_path(path)
    if near is None:
        return None
    return next(name for name, given in zip(near.parts, path.parts, strict=True) if name != given)


def path_hint(path: Path, otherwise: str) -> str:
    """Return the hint for a ``path`` of the command line that does not exist; ``otherwise`` if none is similar."""
    if _ADDRESS.match(str(path)):
        return _FETCHED
    near = near_path(path)
    return f"did you mean `{near}`?" if near else otherwise


def recipe_path_hint(path: Path) -> str:
    """Return the hint for a ``path`` that a recipe names and that does not exist."""
    if _VARIABLE.search(str(path)):
        return "variables are not replaced in recipes; a shell replaces them in `--set KEY=VALUE`"
    if _ADDRESS.search(str(path)):  # after the directory that the path is relative to
        return _FETCHED
    near = near_name(path)
    return f"did you mean `{near}`?" if near else "check the path; it is relative to the file that names it"


def _first_missing(path: Path) -> Path | None:
    """The shortest beginning of ``path`` that does not exist, in an existing directory; None for the root."""
    try:
        chain = [item for item in (path, *path.parents) if not os.path.lexists(item)]
    except ValueError:  # a NUL character
        return None
    return chain[-1] if chain and chain[-1].name not in ("", "..") else None
