"""Installs artifacts outside the store, such that edits do not reach the store or are detected.

Files are reflinks if the file system supports them. Otherwise small files are copied, and large files are hard links,
or symbolic links across file systems: editing such a file changes the store, which its stat reveals
(:mod:`mmbuild.core.store.integrity`). Large files are never copied. All files are read-only.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from contextlib import closing
from pathlib import Path

from mmbuild.base.errors import MmbuildError
from mmbuild.core.store.disk_errors import FULL_BUILD_DIR, disk_errors
from mmbuild.core.store.integrity import check_artifact, remember_large
from mmbuild.core.store.layout import Store
from mmbuild.core.store.manifest import read_tree
from mmbuild.core.store.stat_cache import StatCache

COPIED = 16 << 20
"""Maximum size of a file that is copied, bytes: small enough that the user does not notice the delay."""

_FICLONE = 0x40049409


def materialize(store: Store, digest: str, destination: Path) -> None:
    """Install an artifact's files in the directory ``destination``, which is created if missing.

    Raises:
        MmbuildError: MM304, the artifact is not in the store; MM323, one of its files changed; MM319, a user file
            that it refers to changed; MM301 or MM302, the destination cannot be written; MM324, a large file can be
            neither linked nor reflinked.
    """
    tree = read_tree(store, digest)
    linked: list[tuple[str, str]] = []
    with disk_errors(destination, FULL_BUILD_DIR), closing(StatCache(store)) as index:
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
    """Create ``target`` with the content of ``source``; return whether it is a hard link to the same file.

    Raises:
        MmbuildError: MM324, a large file would have to be copied.
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
            f"`{target}` cannot be linked to the store, and is too large to copy ({size:,} bytes)",
            code="MM324",
            hint="give a `--build-dir` on the store's file system, or on one that supports links",
        ) from error
    return False


def _reflink(source: Path, target: Path) -> bool:
    """Clone the extents (XFS, Btrfs); return False if the file system does not support it."""
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
