"""Checks that files still have their published or planned content: by stat, and by digest if the stat differs.

The manifest in a store records the stat of each file (:class:`mmbuild.core.store.manifest.Tree`). The comparison
covers size and mtime, which a program can restore, and ctime, which it cannot. ctime also changes with each hard
link, so large files that mmbuild itself links are recorded in the stat cache.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass

from mmbuild.base.errors import MmbuildError
from mmbuild.base.files import FileRefusedError
from mmbuild.core.store.hashing import hash_file
from mmbuild.core.store.layout import Store
from mmbuild.core.store.manifest import ManifestEntry, Seen, Tree, read_tree
from mmbuild.core.store.named_builds import seen_of
from mmbuild.core.store.stat_cache import SMALL, StatCache, stat_of


@dataclass(frozen=True, slots=True)
class ArtifactFile:
    """A file of an artifact that is about to be used.

    Attributes:
        path: Path in the store, or of the user's file that the entry refers to.
        entry: Its manifest entry.
        stat: Its stat, links followed.
    """

    path: str
    entry: ManifestEntry
    stat: os.stat_result


def check_inputs(store: Store, digests: Iterable[str], *, paranoid: bool = False) -> list[ArtifactFile]:
    """Return the files of some artifacts, after comparing each with what was published.

    Args:
        store: The store with the artifacts.
        digests: Digests of the artifacts.
        paranoid: Read every file, even if its stat is unchanged.

    Raises:
        MmbuildError: MM304, an artifact is missing; MM323, a file in the store changed; MM319, a user file changed.
    """
    with closing(StatCache(store)) as index:
        return [
            used for digest in digests for used in check_artifact(store, digest, index, paranoid=paranoid)
        ]


def check_artifact(
    store: Store, digest: str, index: StatCache, *, tree: Tree | None = None, paranoid: bool = False
) -> list[ArtifactFile]:
    """:func:`check_inputs` for one artifact; its manifest is read unless ``tree`` is given."""
    tree = read_tree(store, digest) if tree is None else tree
    root = store.tree(digest)
    seen: Sequence[Seen | None] = tree.seen or [None] * len(tree.entries)
    return [
        _check(f"{root}/{entry.path}", entry, was, index, paranoid)
        for entry, was in zip(tree.entries, seen, strict=True)
    ]


def require_unchanged(store: Store, inputs: Iterable[ArtifactFile]) -> None:
    """Check a step's inputs again after it ran.

    ctime is ignored for files in the store, since hard links that the step created change it and nothing else.

    Raises:
        MmbuildError: MM307, the step changed a file in the store; MM319, a user file changed in the meantime.
    """
    with closing(StatCache(store)) as index:
        for used in inputs:
            if used.entry.ref is not None:
                now = _check_reference(used.path, used.entry, index)
                if seen_of(now) != seen_of(used.stat):  # changed, and changed back
                    raise changed_source(used.path, "was written to while the step read it")
            elif not _same_content(used):
                raise _changed_by_step(used.path)


def _check(
    path: str, entry: ManifestEntry, was: Seen | None, index: StatCache, paranoid: bool
) -> ArtifactFile:
    if entry.ref is not None:
        return ArtifactFile(entry.ref, entry, _check_reference(entry.ref, entry, index, paranoid=paranoid))
    try:
        status = os.lstat(path)
        same = not paranoid and seen_of(status) == was
        if not same and _digest(path, entry, index, paranoid) != entry.digest:
            raise damaged_file(path, "no longer has the content it was published with")
    except (OSError, FileRefusedError) as error:
        raise damaged_file(path, f"cannot be read ({error})") from error
    return ArtifactFile(path, entry, status)


def _digest(path: str, entry: ManifestEntry, index: StatCache, paranoid: bool) -> str:
    """Return the digest of a file; empty for a link or a file of the wrong size, which is not read."""
    if os.lstat(path).st_size != entry.size or os.path.islink(path):
        return ""
    return hash_file(path) if paranoid else index.content(path)


def _check_reference(
    path: str, entry: ManifestEntry, index: StatCache, *, paranoid: bool = False
) -> os.stat_result:
    try:
        status = os.stat(path)
        if status.st_size == entry.size:
            digest = hash_file(path) if paranoid else index.content(path)
            if digest == entry.digest:
                return status
    except (OSError, FileRefusedError) as error:
        raise changed_source(path, f"can no longer be read ({error})") from error
    raise changed_source(path, "changed after it was planned")


def _same_content(used: ArtifactFile) -> bool:
    try:
        now = os.lstat(used.path)
    except OSError:
        return False
    then = used.stat
    if (now.st_ino, now.st_size, now.st_mtime_ns) == (then.st_ino, then.st_size, then.st_mtime_ns):
        return True
    return now.st_size == used.entry.size and hash_file(used.path) == used.entry.digest


def remember_large(store: Store, files: Iterable[tuple[str, str]]) -> None:
    """Record the stat of large files with known content, given as (path, digest).

    Creating a hard link changes ctime; without this record, each link would force a read of the whole file.
    """
    with closing(StatCache(store)) as index:
        for path, digest in files:
            status = os.lstat(path)
            if status.st_size >= SMALL:
                index.remember(stat_of(status), digest)


def changed_source(path: str, problem: str) -> MmbuildError:
    """Return the error for a user file that differs from the plan."""
    return MmbuildError(
        f"`{path}` {problem}",
        code="MM319",
        hint="nothing was published; apply again, so that the build uses the current file",
    )


def _changed_by_step(path: str) -> MmbuildError:
    return MmbuildError(
        f"the step changed its input `{path}`",
        code="MM307",
        hint="run `mmbuild cache verify`, which removes the damaged file; this is a bug in the step",
    )


def damaged_file(path: str, problem: str) -> MmbuildError:
    """Return the error for a file in the store that must not be used."""
    return MmbuildError(
        f"`{path}` {problem}",
        code="MM323",
        hint="run `mmbuild cache verify`, which removes it and everything built from it, then apply again",
    )
