"""Checks whether the files of a named build are unchanged since it was installed."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from mmbuild.base.files import FileRefusedError
from mmbuild.core.store.layout import Store
from mmbuild.core.store.named_builds import Laid, Root, scan_files, seen_of
from mmbuild.core.store.stat_cache import StatCache

_LINK = "link to "
_STORED = "stored "
_OLD_NUMBERS = 3
REPORTS = "verify"
"""The directory of a build from which nothing is loaded."""


def record_files(
    store: Store, directory: Path, names: Iterable[str], known: dict[str, str]
) -> dict[str, Laid]:
    """Return what to record about the files ``names`` in ``directory``; files without a ``known`` digest are read.

    Raises:
        OSError: A file cannot be read.
    """
    with closing(StatCache(store)) as index:
        return {
            name: (*seen_of(os.lstat(path)), _content(store, path, known.get(name), index))
            for name in names
            for path in (f"{directory}/{name}",)
        }


def intact(store: Store, root: Root) -> bool:
    """Return whether all files of a build are unchanged. Other files may be at the top level and among the reports.

    False for a build recorded without digests, so that it is installed again with digests in its manifest.
    """
    return not root.void and not has_no_digests(root) and not altered_files(store, root, exact=True)


def has_no_digests(root: Root) -> bool:
    """Return whether the build was installed by an earlier version, which recorded no digests."""
    return any(len(then) == _OLD_NUMBERS for then in root.files.values())


def altered_files(store: Store, root: Root, *, exact: bool = False) -> list[str]:
    """Return the files of a build that were removed, added or changed: by stat, and by content if the stat differs.

    Args:
        store: The store it was installed from.
        root: The build.
        exact: Stop at the first file, and treat a different size, inode or mtime as a change without reading.
    """
    existing = scan_files(root.directory)
    altered = added_files(existing, root.files)
    if altered and exact:
        return altered
    with closing(StatCache(store)) as index:
        for name, then in root.files.items():
            now = existing.get(name)
            if now is None or (exact and now[:_OLD_NUMBERS] != then[:_OLD_NUMBERS]):
                changed = True
            elif len(then) == _OLD_NUMBERS:
                changed = now[:_OLD_NUMBERS] != then
            else:
                changed = _differs(store, f"{root.directory}/{name}", now == then[:-1], then[-1], index)
            if changed:
                altered.append(name)
                if exact:
                    break
    return altered


def added_files(existing: Iterable[str], ours: Iterable[str]) -> list[str]:
    """Return files in ``existing`` but not ``ours``, in directories from which engines load (all but the reports)."""
    names = frozenset(ours)
    directories = {name.partition("/")[0] for name in names if "/" in name} - {REPORTS}
    return sorted(name for name in existing if name not in names and name.partition("/")[0] in directories)


def _content(store: Store, path: str, digest: str | None, index: StatCache) -> str:
    """Return what identifies a file's content: a digest, or the target of a link."""
    if os.path.islink(path):
        target = os.readlink(path)
        inside = digest is not None and target.startswith(f"{store.root}/")
        return f"{_STORED}{digest}" if inside else _LINK + target
    return digest or index.content(path)


def _differs(store: Store, path: str, same_stat: bool, content: str, index: StatCache) -> bool:
    # A link into the store keeps its stat when the file in the store changes.
    if same_stat and not content.startswith(_STORED):
        return False
    try:
        if content.startswith(_STORED):
            return not os.path.islink(path) or index.content(path) != content.removeprefix(_STORED)
        return _content(store, path, None, index) != content
    except (OSError, FileRefusedError):
        return True
