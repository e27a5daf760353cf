"""Confines input files to allowed directories: a link in a project must not lead to the user's other files.

Allowed are the project root, directories named on the command line, and one cache of the Hugging Face hub, whose
snapshots are links to its blobs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from mmbuild.base.files import FileRefusedError, entries, is_within, open_regular, require_regular

Places = tuple[str, ...]
LOCATOR = "places"
"""Locator name under which a step gets them. Locators, like the location of a model, are not part of keys."""

_REPOSITORIES = ("models--", "datasets--")
_INSIDE = ("blobs", "snapshots")
_READ = (".json", ".jinja", ".txt", ".model", ".safetensors", ".bin")


def hub_cache(path: Path | str) -> str | None:
    """The hub cache that contains ``path`` after resolving links: the parent of ``models--owner--name``."""
    parts = Path(os.path.realpath(path)).parts
    for number in range(len(parts) - 2, 0, -1):
        if parts[number].startswith(_REPOSITORIES) and parts[number + 1] in _INSIDE:
            return str(Path(*parts[:number]))
    return None


def cache_of(directory: Path) -> str | None:
    """The hub cache that a model directory leads to, or the first of its files that is in one."""
    own = hub_cache(directory)
    if own is not None:
        return own
    try:
        links = [path for path in entries(directory) if path.suffix in _READ and path.is_symlink()]
    except (OSError, FileRefusedError):
        return None
    return next((found for found in map(hub_cache, links) if found is not None), None)


def require_inside(directory: Path, directories: Iterable[str], places: Places | None) -> None:
    """Check that a model directory contains only regular files, and no links that lead outside ``places``.

    Args:
        directory: The model's directory; missing files are not reported.
        directories: Subdirectories whose files are also read.
        places: Allowed directories; None: any.

    Raises:
        FileRefusedError: MM745, MM746, MM747.
    """
    for place in (directory, *(directory / name for name in directories)):
        if not os.path.isdir(place):
            continue
        _require_place(place, places)
        for path in entries(place):
            if path.suffix in _READ:
                _require_file(path, places)


def real_path(path: Path, places: Places | None) -> str:
    """Resolved path of the regular file ``path``, determined from the opened file.

    Raises:
        FileRefusedError: MM745, MM747.
        OSError: It cannot be read.
    """
    descriptor = open_regular(path, within=places)
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:  # no /proc
        return os.path.realpath(path)
    finally:
        os.close(descriptor)


def as_locator(places: Places | None) -> dict[str, str]:
    """``places`` among an action's locators."""
    return {} if places is None else {LOCATOR: json.dumps(list(places))}


def from_locators(locators: Mapping[str, str]) -> Places | None:
    """The inverse of :func:`as_locator`."""
    found: Sequence[str] | None = json.loads(locators[LOCATOR]) if LOCATOR in locators else None
    return None if found is None else tuple(found)


def _require_place(path: Path, places: Places | None) -> None:
    if places is not None and not is_within(path, places):
        raise FileRefusedError.of(
            path,
            f"leads to `{os.path.realpath(path)}`, outside the directories that this build may read",
            "MM747",
            "copy the files to the location of the link, or allow it with --allow-outside",
        )


def _require_file(path: Path, places: Places | None) -> None:
    if os.path.isdir(path):
        return
    if path.is_symlink():
        _require_place(path, places)
    try:
        require_regular(path)
    except OSError:
        return  # a broken link counts as a missing file
