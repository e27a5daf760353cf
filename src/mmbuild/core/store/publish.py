"""Publishes a step's output directory as an artifact, atomically.

Each file of the output directory becomes a hard link to an object, then the directory is renamed to the artifact's
tree. Nothing is copied. One file system sync covers everything; the manifest, whose existence means that the
artifact is complete, is written after it.
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
from mmbuild.core.store.named_builds import seen_of
from mmbuild.core.store.ownership import require_directory
from mmbuild.core.store.stat_cache import SMALL, StatCache, digest_file

_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS})
"""Errors of link(2) on file systems without hard links, or with no more allowed for a file."""

_MUCH = 64 << 20
"""Bytes that a slow disk writes in about a second."""

Inodes = Mapping[tuple[int, int], ManifestEntry]
"""Files of the input artifacts by (device, inode): a hard link to one of them needs no hashing."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """A published artifact: its digest and files."""

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
        store: The store.
        out: The step's output; removed afterwards.
        inputs: Digests of the artifacts that the step read, whose files it may have linked.
        threads: Cores for hashing; None means all.
        used: The files of ``inputs`` as they were before the step ran; None looks them up.
        confirm: Called after the output has been read and before anything is published; raises to prevent publishing.

    Raises:
        MmbuildError: MM306, the output is empty or contains something that cannot be in an artifact; MM302, the disk
            is full; MM307, the step changed an input; MM319, a user file changed in the meantime.
    """
    with disk_errors(store.root):
        used = check_inputs(store, inputs) if used is None else used
        known = {(file.stat.st_dev, file.stat.st_ino): file.entry for file in used if file.entry.ref is None}
        entries = _collect_entries(store, out, known, threads)
        if not entries:
            raise MmbuildError(
                "the step wrote no output", code="MM306", hint="this is a bug in the step; please report it"
            )
        require_unchanged(store, used)
        confirm()
        return _publish_tree(store, out, make_tree(entries))


def publish_known(store: Store, out: Path, tree: Tree) -> Artifact:
    """:func:`publish` for files that were already checked against ``tree`` or are objects in the store.

    Args:
        store: The store.
        out: A directory on the store's file system with exactly the files of ``tree``; removed afterwards.
        tree: A tree without references.

    Raises:
        MmbuildError: MM302, the disk is full; MM323, an object is damaged.
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
    if tree.size >= _MUCH:  # so that the sync below, under a lock, has little left to write
        sync_file_system(store.root)
    # Two actions may publish the same artifact at the same time; one of 256 locks serializes them.
    with wait_lock(store.lock(f"publish-{digest[:2]}"), "the lock for publishing"):
        if store.has(digest) and _is_intact(store, digest):
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
    """Check the files of ``out`` that are links to objects."""
    with closing(StatCache(store)) as index:
        for entry in tree.entries:
            path, target = out / entry.path, store.object(entry.digest, entry.executable)
            if target.exists() and target.samefile(path) and index.content(path) != entry.digest:
                raise damaged_file(str(target), "does not match the digest in its name")


def _is_intact(store: Store, digest: str) -> bool:
    """Return whether an existing artifact matches its manifest; if not, the new one replaces it.

    This includes the user files that it refers to, which may have been removed or changed.
    """
    try:
        with closing(StatCache(store)) as index:
            check_artifact(store, digest, index, tree=read_tree(store, digest))
    except MmbuildError:
        return False
    return True


def sync_file_system(path: Path) -> None:
    """Flush the file system of ``path``: one call for any number of files."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        flush = _syncfs()
        if flush is None or flush(descriptor) != 0:
            os.sync()
    finally:
        os.close(descriptor)


@cache
def _syncfs() -> Callable[[int], int] | None:
    """Return syncfs(2), or None if the C library does not have it."""
    function: Callable[[int], int] | None = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    return function


def _files(out: Path) -> list[Path]:
    paths: list[Path] = []
    for base, directories, names in os.walk(out):
        directories.sort()
        paths += [Path(base, name) for name in names]
        paths += [Path(base, name) for name in directories if os.path.islink(os.path.join(base, name))]
    return paths


def _collect_entries(store: Store, out: Path, known: Inodes, threads: int | None) -> list[ManifestEntry]:
    """Return entries for all files in ``out``; new files are hashed together."""
    paths = _files(out)
    entries = [_collect_entry(store, out, path, known) for path in paths]
    fresh = [path for path, entry in zip(paths, entries, strict=True) if not entry.digest]
    digests = iter(hash_files(fresh, threads))
    return [entry if entry.digest else replace(entry, digest=next(digests)) for entry in entries]


def _collect_entry(store: Store, out: Path, path: Path, known: Inodes) -> ManifestEntry:
    """Return the entry of a file; its digest is empty if the file still has to be hashed."""
    name = path.relative_to(out).as_posix()
    if path.is_symlink():
        return _link_entry(store, path, name, known)
    info = path.lstat()
    if not stat.S_ISREG(info.st_mode):
        raise _invalid_output(name, "is neither a file nor a directory")
    linked = known.get((info.st_dev, info.st_ino))
    if linked is not None:
        return ManifestEntry(name, linked.digest, linked.size, linked.executable)
    if info.st_nlink > 1:
        _unshare(path)
    return ManifestEntry(name, "", info.st_size, bool(info.st_mode & 0o100))


def _unshare(path: Path) -> None:
    """Replace the hard link ``path`` with a copy.

    A hard link to a user file would let edits of that file change the store, and would make the file read-only.
    """
    fresh = path.with_name(f".own-{os.getpid()}")
    shutil.copy(path, fresh)
    os.replace(fresh, path)


def _link_entry(store: Store, path: Path, name: str, known: Inodes) -> ManifestEntry:
    """Return the entry of a symbolic link: the input file that it points to, or a reference to a user file."""
    target = Path(os.path.realpath(path))
    if not target.exists():
        raise _invalid_output(name, f"links to `{target}`, which does not exist")
    if target.is_dir():
        raise _invalid_output(name, f"links to the directory `{target}`; only files can be referenced")
    info = target.stat()
    linked = known.get((info.st_dev, info.st_ino))
    if linked is not None:
        path.unlink()
        os.link(target, path)
        return ManifestEntry(name, linked.digest, linked.size, linked.executable)
    if target.is_relative_to(os.path.realpath(store.root)):
        raise _invalid_output(name, "links into the store, but not to an input of the step")
    return ManifestEntry(
        name, digest_file(store, target), info.st_size, bool(info.st_mode & 0o100), str(target)
    )


def _link_object(store: Store, path: Path, entry: ManifestEntry) -> None:
    """Make ``path`` and the object the same file; if there is no object yet, ``path`` becomes it."""
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
        if error.errno not in _NO_LINKS:  # without hard links, each tree keeps its own copy
            raise


def _join_object(store: Store, path: Path, target: Path, entry: ManifestEntry) -> None:
    """Make ``path`` a link to the existing object ``target``; a damaged object is replaced with ``path``."""
    fresh = path.with_name(f".link-{os.getpid()}")
    try:
        if _matches(store, target, entry):
            os.link(target, fresh)
            os.replace(fresh, path)
            return
        os.link(path, fresh)
        if target.is_dir() and not target.is_symlink():
            remove_tree(target)
        os.replace(fresh, target)
    except OSError as error:  # too many links to the file: this tree keeps its own copy
        if error.errno not in _NO_LINKS:
            raise


def _matches(store: Store, target: Path, entry: ManifestEntry) -> bool:
    info = os.lstat(target)
    if not stat.S_ISREG(info.st_mode) or info.st_size != entry.size:
        return False
    with closing(StatCache(store)) as index:
        return index.content(target) == entry.digest


def _rename_tree(store: Store, out: Path, digest: str) -> None:
    """Move the directory into place. The caller holds the lock, and there is no manifest yet."""
    target = store.tree(digest)
    discard(target)  # left by a kill before its manifest was written
    out.rename(target)


def _invalid_output(name: str, problem: str) -> MmbuildError:
    return MmbuildError(
        f"the step's output `{name}` {problem}",
        code="MM306",
        hint="this is a bug in the step; please report it",
    )
