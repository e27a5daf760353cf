"""Artifacts outside the store, so that an edit of what is laid out does not reach the store, or is found.

A file is a reflink where the file system has them. Where not, a small one is a copy, and a large one a hard link,
or across file systems a symbolic link: an edit of such a file is an edit of the file in the store, which its stat
gives away (:mod:`mmbuild.core.store.integrity`). Large files are never copied. All are read-only.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from contextlib import closing
from pathlib import Path

from mmbuild.base.errors import MmbuildError
from mmbuild.core.store.disk_errors import disk_errors
from mmbuild.core.store.integrity import check_artifact, remember_large
from mmbuild.core.store.layout import Store
from mmbuild.core.store.manifest import read_tree
from mmbuild.core.store.stat_cache import StatCache

COPIED = 16 << 20
"""Bytes up to which a file is copied: what a disk writes in the time that a person does not notice."""

_FICLONE = 0x40049409


def materialize(store: Store, digest: str, destination: Path) -> None:
    """Lay an artifact's files into the directory ``destination`` (made when absent).

    Raises:
        MmbuildError: MM304 the artifact is not in the store, MM323 a file of it changed, MM319 a file of the user
            that it refers to changed; MM301, MM302 the destination cannot be written, MM324 a large file can neither
            be linked nor reflinked.
    """
    tree = read_tree(store, digest)
    linked: list[tuple[str, str]] = []
    with disk_errors(destination), closing(StatCache(store)) as index:
        destination.mkdir(parents=True, exist_ok=True)
        for used in check_artifact(store, digest, index, tree=tree):
            entry, target = used.entry, destination / used.entry.path
            target.parent.mkdir(parents=True, exist_ok=True)
            if entry.ref is not None:
                os.symlink(entry.ref, target)
            elif materialize_file(Path(used.path), target, 0o555 if entry.executable else 0o444, entry.size):
                linked.append((used.path, entry.digest))
    if linked:
        remember_large(store, linked)


def materialize_file(source: Path, target: Path, mode: int, size: int) -> bool:
    """Make ``target`` hold the bytes of ``source``; whether it is now the same file, as a hard link is.

    Raises:
        MmbuildError: MM324 it cannot be done without a copy of a large file.
        OSError: The target cannot be written.
    """
    if _reflink(source, target):
        os.chmod(target, mode)
        return False
    if size <= COPIED:
        shutil.copyfile(source, target)
        os.chmod(target, mode)
        return False
    try:
        os.link(source, target)
        return True
    except OSError:
        pass
    try:
        os.symlink(source, target)
    except OSError as error:
        raise MmbuildError(
            f"`{target}` cannot be made a link to the store, and its {size:,} bytes are not copied",
            code="MM324",
            hint="give a `--build-dir` on the file system of the store, or on one that has links",
        ) from error
    return False


def _reflink(source: Path, target: Path) -> bool:
    """Clone the extents (XFS, Btrfs); False where the file system cannot."""
    with open(source, "rb") as reader:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            fcntl.ioctl(descriptor, _FICLONE, reader.fileno())
            return True
        except OSError:
            os.unlink(target)
            return False
        finally:
            os.close(descriptor)
