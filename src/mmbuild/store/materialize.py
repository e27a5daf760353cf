"""Artifacts outside the store: reflink, else hard link, else symbolic link, else copy; always read-only."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path

from mmbuild.store.faults import disk_errors
from mmbuild.store.layout import Store
from mmbuild.store.publish import read_tree

_FICLONE = 0x40049409


def materialize(store: Store, digest: str, destination: Path) -> None:
    """Lay an artifact's files into the directory ``destination`` (made when absent).

    Raises:
        MmbuildError: MM304 the artifact is not in the store; MM301, MM302 the destination cannot be written.
    """
    tree = read_tree(store, digest)
    with disk_errors(destination):
        destination.mkdir(parents=True, exist_ok=True)
        for entry in tree.entries:
            target = destination / entry.path
            target.parent.mkdir(parents=True, exist_ok=True)
            if entry.ref is not None:
                os.symlink(entry.ref, target)
            else:
                lay_file(store.tree(digest) / entry.path, target, 0o555 if entry.executable else 0o444)


def lay_file(source: Path, target: Path, mode: int) -> None:
    """Make ``target`` hold the bytes of ``source`` in the cheapest way that the file systems offer."""
    if _reflink(source, target):
        os.chmod(target, mode)
        return
    try:
        os.link(source, target)
        return
    except OSError:
        pass
    try:
        os.symlink(source, target)
    except OSError:
        shutil.copyfile(source, target)
        os.chmod(target, mode)


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
