"""Whether files still hold what was published or planned: by stat, and by digest where that differs.

The manifest that a store keeps has the stat of each file (:class:`mmbuild.core.store.manifest.Tree`). What a program
may set back, size and times of the content, is compared, and the time of the last change of the inode, which it may
not. That one changes with each hard link too; large files whose links mmbuild itself makes are remembered in the stat
index.
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
from mmbuild.core.store.roots import seen_of
from mmbuild.core.store.stat_cache import SMALL, StatCache, stat_of


@dataclass(frozen=True, slots=True)
class ArtifactFile:
    """A file of an artifact that is about to be used.

    Attributes:
        path: Where it is: in the store, or the user's file that the entry refers to.
        entry: What the artifact says of it.
        found: Its stat, links followed.
    """

    path: str
    entry: ManifestEntry
    found: os.stat_result


def check_inputs(store: Store, digests: Iterable[str], *, paranoid: bool = False) -> list[ArtifactFile]:
    """The files of some artifacts, each compared with what was published.

    Args:
        store: Where the artifacts are.
        digests: Their digests.
        paranoid: Read every file, whatever its stat.

    Raises:
        MmbuildError: MM304 an artifact is missing, MM323 a file of the store changed, MM319 one of the user.
    """
    with closing(StatCache(store)) as index:
        return [
            used for digest in digests for used in check_artifact(store, digest, index, paranoid=paranoid)
        ]


def check_artifact(
    store: Store, digest: str, index: StatCache, *, tree: Tree | None = None, paranoid: bool = False
) -> list[ArtifactFile]:
    """:func:`check_inputs` of one artifact; ``tree`` None means that its manifest is read."""
    found = read_tree(store, digest) if tree is None else tree
    root = store.tree(digest)
    seen: Sequence[Seen | None] = found.seen or [None] * len(found.entries)
    return [
        _check(f"{root}/{entry.path}", entry, was, index, paranoid)
        for entry, was in zip(found.entries, seen, strict=True)
    ]


def require_unchanged(store: Store, inputs: Iterable[ArtifactFile]) -> None:
    """Check once more, after a step ran, what it was given.

    Hard links that the step made change the inode's time and nothing else, so for files of the store that one does
    not count.

    Raises:
        MmbuildError: MM307 the step changed a file of the store, MM319 a file of the user changed meanwhile.
    """
    with closing(StatCache(store)) as index:
        for used in inputs:
            if used.entry.ref is not None:
                now = _check_reference(used.path, used.entry, index)
                if seen_of(now) != seen_of(used.found):  # changed, and changed back
                    raise changed_source(used.path, "was written to while the step read it")
            elif not _same_content(used):
                raise _changed_by_step(used.path)


def _check(
    path: str, entry: ManifestEntry, was: Seen | None, index: StatCache, paranoid: bool
) -> ArtifactFile:
    if entry.ref is not None:
        return ArtifactFile(entry.ref, entry, _check_reference(entry.ref, entry, index, paranoid=paranoid))
    try:
        found = os.lstat(path)
        same = not paranoid and seen_of(found) == was
        if not same and _digest(path, entry, index, paranoid) != entry.digest:
            raise damaged_file(path, "holds other bytes than it did when it was published")
    except (OSError, FileRefusedError) as error:
        raise damaged_file(path, f"cannot be read ({error})") from error
    return ArtifactFile(path, entry, found)


def _digest(path: str, entry: ManifestEntry, index: StatCache, paranoid: bool) -> str:
    """Of a file with the size that it should have; empty for any other."""
    if os.lstat(path).st_size != entry.size or os.path.islink(path):
        return ""
    return hash_file(path) if paranoid else index.content(path)


def _check_reference(
    path: str, entry: ManifestEntry, index: StatCache, *, paranoid: bool = False
) -> os.stat_result:
    try:
        found = os.stat(path)
        if found.st_size == entry.size:
            digest = hash_file(path) if paranoid else index.content(path)
            if digest == entry.digest:
                return found
    except (OSError, FileRefusedError) as error:
        raise changed_source(path, f"cannot be read any more ({error})") from error
    raise changed_source(path, "changed after it was planned")


def _same_content(used: ArtifactFile) -> bool:
    try:
        now = os.lstat(used.path)
    except OSError:
        return False
    then = used.found
    if (now.st_ino, now.st_size, now.st_mtime_ns) == (then.st_ino, then.st_size, then.st_mtime_ns):
        return True
    return now.st_size == used.entry.size and hash_file(used.path) == used.entry.digest


def remember_large(store: Store, files: Iterable[tuple[str, str]]) -> None:
    """Note the stat of large files whose content is known just now: (path, digest) of each.

    Making a hard link changes the inode's time; without this each link would cost a reading of the whole file.
    """
    with closing(StatCache(store)) as index:
        for path, digest in files:
            found = os.lstat(path)
            if found.st_size >= SMALL:
                index.remember(stat_of(found), digest)


def changed_source(path: str, what: str) -> MmbuildError:
    """The error for a file of the user that is not what the plan says."""
    return MmbuildError(
        f"`{path}` {what}",
        code="MM319",
        hint="nothing was published; apply again, so that the build starts from the file as it is now",
    )


def _changed_by_step(path: str) -> MmbuildError:
    return MmbuildError(
        f"the step changed its input `{path}`",
        code="MM307",
        hint="run `mmbuild cache verify`, which removes the damaged file; this is a bug in the step",
    )


def damaged_file(path: str, what: str) -> MmbuildError:
    """The error for a file of the store that must not be used."""
    return MmbuildError(
        f"`{path}` {what}",
        code="MM323",
        hint="run `mmbuild cache verify`, which removes it with everything built from it, then apply again",
    )
