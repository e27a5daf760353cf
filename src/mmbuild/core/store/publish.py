"""Turning a step's output directory into an artifact: whole or not at all.

The output directory itself becomes the artifact's tree by a rename, after each of its files has become a
hard link to an object. Nothing is copied. One sync of the file system covers all of it; the manifest, whose
presence means that the artifact is whole, comes after that.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import stat
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from mmbuild.base.errors import MmbuildError
from mmbuild.core.store.atomic_files import discard, remove_tree, write_whole
from mmbuild.core.store.disk_errors import disk_errors, fault_point
from mmbuild.core.store.hashing import hash_files
from mmbuild.core.store.integrity import (
    ArtifactFile,
    check_artifact,
    check_inputs,
    damaged_file,
    remember_large,
    require_unchanged,
)
from mmbuild.core.store.layout import Store
from mmbuild.core.store.locks import wait_lock
from mmbuild.core.store.manifest import (
    ManifestEntry,
    Seen,
    Tree,
    make_tree,
    manifest_json,
    read_tree,
    tree_digest,
)
from mmbuild.core.store.ownership import require_directory
from mmbuild.core.store.roots import seen_of
from mmbuild.core.store.stat_cache import SMALL, StatCache, digest_file

_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS})
"""What link(2) says on file systems that have no hard links, or no more of them for one file."""

_MUCH = 64 << 20
"""Bytes that a slow disk writes in a second or so."""

Inodes = Mapping[tuple[int, int], ManifestEntry]
"""Files of the input artifacts by (device, inode): a hard link to one of them needs no hashing."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """A published artifact: its digest and its files."""

    digest: str
    tree: Tree


def publish(
    store: Store,
    out: Path,
    inputs: tuple[str, ...] = (),
    threads: int | None = None,
    *,
    used: Sequence[ArtifactFile] | None = None,
    confirm: Callable[[], None] = lambda: None,
) -> Artifact:
    """Move the directory ``out`` (on the store's file system) into the store.

    Args:
        store: Where to.
        out: The step's output; gone afterwards.
        inputs: Digests of the artifacts that the step read, whose files it may have linked.
        threads: Cores for hashing; None means all.
        used: The files of ``inputs`` as they were before the step ran; None means that they are looked up.
        confirm: Called when the output has been read, and before anything is published: raises where that would be
            wrong.

    Raises:
        MmbuildError: MM306 the output is empty or holds something that no artifact can hold, MM302 the disk
            is full, MM307 an input was changed by the step, MM319 a file of the user changed meanwhile.
    """
    with disk_errors(store.root):
        read = check_inputs(store, inputs) if used is None else used
        known = {
            (item.found.st_dev, item.found.st_ino): item.entry for item in read if item.entry.ref is None
        }
        entries = _collect_entries(store, out, known, threads)
        if not entries:
            raise MmbuildError(
                "the step wrote no output", code="MM306", hint="this is a bug in the step; please report it"
            )
        require_unchanged(store, read)
        confirm()
        return _publish_tree(store, out, make_tree(entries))


def publish_known(store: Store, out: Path, tree: Tree) -> Artifact:
    """:func:`publish` of files whose bytes have been checked against ``tree`` already, or are objects of the store.

    Args:
        store: Where to.
        out: A directory on the store's file system that holds exactly the files of ``tree``; gone afterwards.
        tree: Without references.

    Raises:
        MmbuildError: MM302 the disk is full, MM323 an object is damaged.
    """
    with disk_errors(store.root):
        _require_objects(store, out, tree)
        return _publish_tree(store, out, tree)


def _publish_tree(store: Store, out: Path, tree: Tree) -> Artifact:
    for entry in tree.entries:
        if entry.ref is None:
            _link_object(store, out / entry.path, entry)
    fault_point("publish-objects")
    digest = tree_digest(tree)
    if tree.size >= _MUCH:  # so that the sync below, for which others may wait, finds little to do
        sync_file_system(store.root)
    # Two actions may come to the same artifact at once; one of 256 locks keeps them apart.
    with wait_lock(store.lock(f"publish-{digest[:2]}"), "the lock of what is being published"):
        if store.has(digest) and _is_whole(store, digest):
            remove_tree(out)
        else:
            _rename_tree(store, out, digest)
            fault_point("publish-tree")
            sync_file_system(store.root)
            text = manifest_json(replace(tree, seen=_seen(store, digest, tree)))
            write_whole(store.manifest(digest), text, owned=True)
    fault_point("publish-manifest")
    if any(entry.size >= SMALL and entry.ref is None for entry in tree.entries):
        root = store.tree(digest)
        remember_large(store, [(f"{root}/{e.path}", e.digest) for e in tree.entries if e.ref is None])
    return Artifact(digest, tree)


def _seen(store: Store, digest: str, tree: Tree) -> tuple[Seen, ...]:
    root = store.tree(digest)
    return tuple(seen_of(os.lstat(f"{root}/{entry.path}")) for entry in tree.entries)


def _require_objects(store: Store, out: Path, tree: Tree) -> None:
    """Check those files of ``out`` that are links to objects."""
    with closing(StatCache(store)) as index:
        for entry in tree.entries:
            path, target = out / entry.path, store.object(entry.digest, entry.executable)
            if target.exists() and target.samefile(path) and index.content(path) != entry.digest:
                raise damaged_file(str(target), "holds other bytes than its name says")


def _is_whole(store: Store, digest: str) -> bool:
    """Whether an artifact that is here already holds what its manifest says; if not, the new one takes its place.

    That includes the files of the user that it refers to: they may have gone, or changed.
    """
    try:
        with closing(StatCache(store)) as index:
            check_artifact(store, digest, index, tree=read_tree(store, digest))
    except MmbuildError:
        return False
    return True


def sync_file_system(path: Path) -> None:
    """Flush the file system that holds ``path``: one call for any number of files."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        flush = _syncfs()
        if flush is None or flush(descriptor) != 0:
            os.sync()
    finally:
        os.close(descriptor)


@cache
def _syncfs() -> Callable[[int], int] | None:
    """syncfs(2), where the C library has it."""
    found: Callable[[int], int] | None = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    return found


def _files(out: Path) -> list[Path]:
    found: list[Path] = []
    for base, directories, names in os.walk(out):
        directories.sort()
        found += [Path(base, name) for name in names]
        found += [Path(base, name) for name in directories if os.path.islink(os.path.join(base, name))]
    return found


def _collect_entries(store: Store, out: Path, known: Inodes, threads: int | None) -> list[ManifestEntry]:
    """All files of ``out``; those with new bytes are hashed together."""
    paths = _files(out)
    found = [_collect_entry(store, out, path, known) for path in paths]
    fresh = [path for path, entry in zip(paths, found, strict=True) if not entry.digest]
    digests = iter(hash_files(fresh, threads))
    return [entry if entry.digest else replace(entry, digest=next(digests)) for entry in found]


def _collect_entry(store: Store, out: Path, path: Path, known: Inodes) -> ManifestEntry:
    """One file; its digest is left empty where its bytes have to be read."""
    name = path.relative_to(out).as_posix()
    if path.is_symlink():
        return _link_entry(store, path, name, known)
    info = path.lstat()
    if not stat.S_ISREG(info.st_mode):
        raise _unfit(name, "is neither a file nor a directory")
    twin = known.get((info.st_dev, info.st_ino))
    if twin is not None:
        return ManifestEntry(name, twin.digest, twin.size, twin.executable)
    if info.st_nlink > 1:
        _unshare(path)
    return ManifestEntry(name, "", info.st_size, bool(info.st_mode & 0o100))


def _unshare(path: Path) -> None:
    """Give ``path`` bytes of its own: a hard link to a file of the user would let an edit of that file
    change the store, and would make the user's file read-only."""
    fresh = path.with_name(f".own-{os.getpid()}")
    shutil.copy(path, fresh)
    os.replace(fresh, path)


def _link_entry(store: Store, path: Path, name: str, known: Inodes) -> ManifestEntry:
    """A symbolic link: into an input it stands for that file, else for a file of the user, by reference."""
    target = Path(os.path.realpath(path))
    if not target.exists():
        raise _unfit(name, f"links to `{target}`, which does not exist")
    if target.is_dir():
        raise _unfit(name, f"links to the directory `{target}`; only files can be referenced")
    info = target.stat()
    twin = known.get((info.st_dev, info.st_ino))
    if twin is not None:
        path.unlink()
        os.link(target, path)
        return ManifestEntry(name, twin.digest, twin.size, twin.executable)
    if target.is_relative_to(os.path.realpath(store.root)):
        raise _unfit(name, "links into the store, but to nothing that the step was given")
    return ManifestEntry(
        name, digest_file(store, target), info.st_size, bool(info.st_mode & 0o100), str(target)
    )


def _link_object(store: Store, path: Path, entry: ManifestEntry) -> None:
    """Make ``path`` and the object the same file; the first to arrive gives the bytes."""
    target = store.object(entry.digest, entry.executable)
    require_directory(target.parent)
    if target.exists() and target.samefile(path):
        return
    os.chmod(path, 0o555 if entry.executable else 0o444)
    try:
        os.link(path, target)
    except FileExistsError:
        _join_object(store, path, target, entry)
    except OSError as error:
        if error.errno not in _NO_LINKS:  # without hard links each tree holds bytes of its own
            raise


def _join_object(store: Store, path: Path, target: Path, entry: ManifestEntry) -> None:
    """Make ``path`` a link to the object ``target``; a damaged object is replaced by ``path``."""
    fresh = path.with_name(f".link-{os.getpid()}")
    try:
        if _holds(store, target, entry):
            os.link(target, fresh)
            os.replace(fresh, path)
            return
        os.link(path, fresh)
        if target.is_dir() and not target.is_symlink():
            remove_tree(target)
        os.replace(fresh, target)
    except OSError as error:  # too many links to one file: this tree keeps its own copy
        if error.errno not in _NO_LINKS:
            raise


def _holds(store: Store, target: Path, entry: ManifestEntry) -> bool:
    found = os.lstat(target)
    if not stat.S_ISREG(found.st_mode) or found.st_size != entry.size:
        return False
    with closing(StatCache(store)) as index:
        return index.content(target) == entry.digest


def _rename_tree(store: Store, out: Path, digest: str) -> None:
    """Put the directory in place; the caller holds the lock, and there is no manifest yet."""
    target = store.tree(digest)
    discard(target)  # left by a kill between here and the manifest
    out.rename(target)


def _unfit(name: str, why: str) -> MmbuildError:
    return MmbuildError(
        f"the step's output `{name}` {why}", code="MM306", hint="this is a bug in the step; please report it"
    )
