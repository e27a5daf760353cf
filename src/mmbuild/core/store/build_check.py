"""Whether a named build still holds what was laid out there."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from mmbuild.base.files import FileRefusedError
from mmbuild.core.store.layout import Store
from mmbuild.core.store.roots import Laid, Root, scan_files, seen_of
from mmbuild.core.store.stat_cache import StatCache

_LINK = "link to "
_STORED = "stored "
_OLD_NUMBERS = 3
REPORTS = "verify"
"""The directory of a build that nothing is loaded from."""


def record_files(
    store: Store, directory: Path, names: Iterable[str], known: dict[str, str]
) -> dict[str, Laid]:
    """What to record of the files ``names`` below ``directory``; those without a ``known`` digest are read.

    Raises:
        OSError: One cannot be read.
    """
    with closing(StatCache(store)) as index:
        return {
            name: (*seen_of(os.lstat(path)), _content(store, path, known.get(name), index))
            for name in names
            for path in (f"{directory}/{name}",)
        }


def intact(store: Store, root: Root) -> bool:
    """Whether all files of a build are as they were laid out; others may be at the top and among the reports.

    A build whose files were recorded without digests is not: laid out again, it gets them, and so does its manifest.
    """
    return not root.void and not has_no_digests(root) and not altered_files(store, root, exact=True)


def has_no_digests(root: Root) -> bool:
    """Whether an earlier version laid the build out, which recorded no digests."""
    return any(len(then) == _OLD_NUMBERS for then in root.files.values())


def altered_files(store: Store, root: Root, *, exact: bool = False) -> list[str]:
    """Files of a build that are gone, were added, or are not what was laid out: by stat, and by content where that
    differs.

    Args:
        store: What it was laid out from.
        root: The build.
        exact: Stop at the first one, and read nothing whose size, inode or time of the content differs.
    """
    found = scan_files(root.directory)
    wrong = added_files(found, root.files)
    if wrong and exact:
        return wrong
    with closing(StatCache(store)) as index:
        for name, then in root.files.items():
            now = found.get(name)
            if now is None or (exact and now[:_OLD_NUMBERS] != then[:_OLD_NUMBERS]):
                fault = True
            elif len(then) == _OLD_NUMBERS:
                fault = now[:_OLD_NUMBERS] != then
            else:
                fault = _differs(store, f"{root.directory}/{name}", now == then[:-1], then[-1], index)
            if fault:
                wrong.append(name)
                if exact:
                    break
    return wrong


def added_files(found: Iterable[str], ours: Iterable[str]) -> list[str]:
    """Files of ``found`` that are not ``ours``, in directories that engines are loaded from: all but the reports."""
    names = frozenset(ours)
    places = {name.partition("/")[0] for name in names if "/" in name} - {REPORTS}
    return sorted(name for name in found if name not in names and name.partition("/")[0] in places)


def invalidate(root: Root, why: str) -> Root:
    """``root`` whose files are not to be trusted: the next apply lays the build out again."""
    return replace(root, void=why)


def _content(store: Store, path: str, digest: str | None, index: StatCache) -> str:
    """What identifies a file's content: a digest, or where a link leads to."""
    if os.path.islink(path):
        target = os.readlink(path)
        inside = digest is not None and target.startswith(f"{store.root}/")
        return f"{_STORED}{digest}" if inside else _LINK + target
    return digest or index.content(path)


def _differs(store: Store, path: str, same_stat: bool, content: str, index: StatCache) -> bool:
    if same_stat and not content.startswith(
        _STORED
    ):  # a link to a file of the store stays while that one changes
        return False
    try:
        if content.startswith(_STORED):
            return not os.path.islink(path) or index.content(path) != content.removeprefix(_STORED)
        return _content(store, path, None, index) != content
    except (OSError, FileRefusedError):
        return True
