"""Where the files of an input may be: a link that came with a project must not lead to the user's other files.

Allowed are the project's root, what the user named on the command line, and one cache of the Hugging Face hub, whose
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
"""Under which a step finds them. Locators are in no key, and neither is where a model lies."""

_REPOSITORIES = ("models--", "datasets--")
_INSIDE = ("blobs", "snapshots")
_READ = (".json", ".jinja", ".txt", ".model", ".safetensors", ".bin")


def hub_cache(path: Path | str) -> str | None:
    """The hub's cache that ``path``, links followed, is in: the directory that holds ``models--owner--name``."""
    parts = Path(os.path.realpath(path)).parts
    for number in range(len(parts) - 2, 0, -1):
        if parts[number].startswith(_REPOSITORIES) and parts[number + 1] in _INSIDE:
            return str(Path(*parts[:number]))
    return None


def cache_of(directory: Path) -> str | None:
    """The one hub cache that a model directory, or the first of its files that is in one, leads to."""
    own = hub_cache(directory)
    if own is not None:
        return own
    try:
        links = [path for path in entries(directory) if path.suffix in _READ and path.is_symlink()]
    except (OSError, FileRefusedError):
        return None
    return next((found for found in map(hub_cache, links) if found is not None), None)


def require_inside(directory: Path, directories: Iterable[str], places: Places | None) -> None:
    """Refuse a model directory that holds anything else than regular files, or links that leave ``places``.

    Args:
        directory: The model's directory; what is missing is left to those who need it.
        directories: Directories below it whose files are read too.
        places: Where its files may be; None: anywhere.

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
    """Where the regular file ``path`` is, links followed, as it is opened.

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
    """What :func:`as_locator` left."""
    found: Sequence[str] | None = json.loads(locators[LOCATOR]) if LOCATOR in locators else None
    return None if found is None else tuple(found)


def _require_place(path: Path, places: Places | None) -> None:
    if places is not None and not is_within(path, places):
        raise FileRefusedError.of(
            path,
            f"leads to `{os.path.realpath(path)}`, outside of the places that this build may read",
            "MM747",
            "copy the files to where the link lies, or allow it with --allow-outside",
        )


def _require_file(path: Path, places: Places | None) -> None:
    if os.path.isdir(path):
        return
    if path.is_symlink():
        _require_place(path, places)
    try:
        require_regular(path)
    except OSError:
        return  # a link to nothing: a missing file
