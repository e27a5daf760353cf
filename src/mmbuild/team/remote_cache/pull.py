"""Pulls artifacts from the shared store: every byte is hashed on arrival, and only complete artifacts are used.

Contents are downloaded to ``remote/partial`` in the local store and resume where they stopped. An artifact is
assembled in a staging directory and published like one that was built here.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mmbuild.core.store.atomic_files import remove_tree
from mmbuild.core.store.disk_errors import disk_errors, fault_point
from mmbuild.core.store.layout import Store
from mmbuild.core.store.locks import try_lock, wait_lock
from mmbuild.core.store.manifest import ManifestEntry, Tree
from mmbuild.core.store.publish import publish_known
from mmbuild.team.remote_cache import object_store as names
from mmbuild.team.remote_cache.retrying_client import MalformedError, UnreachableError

if TYPE_CHECKING:
    from mmbuild.team.remote_cache.remote_cache import SharedStore

_CHUNK = 8 << 20
_AHEAD = 3
"""Number of chunks of a file that are requested ahead."""

_BAD_NAMES = (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, errno.ENOTDIR, errno.EISDIR, errno.EEXIST)
"""Errors of a file system for names that it does not support, or treats as equal."""

_FILES = 4
"""Files downloaded concurrently."""

Progress = Callable[[int, int], None]
"""``progress(bytes so far, total bytes)``."""


class DamagedError(Exception):
    """Downloaded content does not match its digest."""


def partial_directory(store: Store) -> Path:
    """Return the directory for partial downloads."""
    return store.root / "remote" / "partial"


def pull(shared: SharedStore, digests: Sequence[str], progress: Progress | None = None) -> Mapping[str, str]:
    """Pull artifacts into the local store.

    Args:
        shared: The shared store.
        digests: The artifacts; those already in the local store are skipped.
        progress: Called from other threads.

    Returns:
        The reason for each artifact that could not be pulled, by digest. Each was reported as a warning and is not
        requested again in this run.

    Raises:
        MmbuildError: MM302, the disk is full.
    """
    store = shared.store
    required = [digest for digest in dict.fromkeys(digests) if not store.has(digest)]
    trees = shared.trees(required)
    failed: dict[str, Exception] = {
        digest: DamagedError(shared.bad.get(digest) or shared.calls.down or "its manifest is missing")
        for digest in required
        if digest not in trees
    }
    if shared.calls.down:
        shared.bad.update({digest: str(error) for digest, error in failed.items()})
    too_large = _too_large(store, trees)
    failed |= too_large
    trees = {digest: tree for digest, tree in trees.items() if digest not in too_large}
    missing = {entry.digest: entry for tree in trees.values() for entry in _missing(store, tree)}
    total = sum(entry.size for entry in missing.values())
    with disk_errors(store.root):
        partial_directory(store).mkdir(parents=True, exist_ok=True)
        faults = _download(shared, list(missing.values()), _Count(total, progress))
        with _staging(store) as place:
            for digest, tree in trees.items():
                fault = next((faults[e.digest] for e in tree.entries if e.digest in faults), None)
                fault = fault or _assemble(store, place / digest, tree)
                if fault is not None:
                    failed[digest] = fault
    for digest, error in failed.items():
        if isinstance(error, UnreachableError):
            shared.mark_unreachable(digest, error)
        elif digest not in shared.bad:
            shared.mark_corrupt(digest, str(error))
    _mark_used(shared, [digest for digest in trees if digest not in failed])
    return {digest: str(error) for digest, error in failed.items()}


@dataclass(slots=True)
class _Count:
    """Bytes downloaded so far, over all files."""

    total: int
    progress: Progress | None
    done: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, count: int) -> None:
        with self._lock:
            self.done += count
            if self.progress is not None:
                self.progress(self.done, self.total)


def _missing(store: Store, tree: Tree) -> Iterator[ManifestEntry]:
    """Yield the files of ``tree`` whose content is not in the local store."""
    for entry in tree.entries:
        if not (store.object(entry.digest).exists() or store.object(entry.digest, executable=True).exists()):
            yield entry


def _too_large(store: Store, trees: Mapping[str, Tree]) -> dict[str, DamagedError]:
    """Return the artifacts that do not fit on the disk, with the reason; smaller ones are counted first.

    A manifest may claim any size. Artifacts that do not fit are built here; the others are pulled.
    """
    free = left = shutil.disk_usage(store.root).free
    needed = {
        digest: sum({e.digest: e.size for e in _missing(store, tree)}.values())
        for digest, tree in trees.items()
    }
    too_large = {}
    for digest, size in sorted(needed.items(), key=lambda item: item[1]):
        left -= size
        if left < 0:
            too_large[digest] = DamagedError(
                f"it takes {size / 1e6:,.1f} MB, and `{store.root}` has {free / 1e6:,.1f} MB free"
            )
    return too_large


def _download(shared: SharedStore, entries: Sequence[ManifestEntry], count: _Count) -> dict[str, Exception]:
    """Download contents to the partial directory concurrently; return errors by digest.

    Raises:
        OSError: An error of the local disk.
    """
    faults: dict[str, Exception] = {}
    stop = threading.Event()
    # Large files first, so that the last one to finish is short.
    ordered = sorted(entries, key=lambda entry: -entry.size)
    with (
        ThreadPoolExecutor(shared.settings.transfers) as requests,
        ThreadPoolExecutor(_FILES) as files,
    ):
        tasks = {
            entry.digest: files.submit(_download_one, shared, entry, count, requests, stop)
            for entry in ordered
        }
        try:
            for digest, task in tasks.items():
                try:
                    task.result()
                except (DamagedError, UnreachableError) as error:
                    faults[digest] = error
        except BaseException:
            stop.set()
            files.shutdown(wait=False, cancel_futures=True)
            raise
    return faults


def _download_one(
    shared: SharedStore,
    entry: ManifestEntry,
    count: _Count,
    requests: ThreadPoolExecutor,
    stop: threading.Event,
) -> None:
    """Download a file. If a partial file from an earlier run turns out to be damaged, start again."""
    path = partial_directory(shared.store) / entry.digest
    for _ in range(2):
        with _locked_file(path) as descriptor:
            start = os.fstat(descriptor).st_size
            if _complete(shared, entry, descriptor, count, requests, stop):
                return
            os.unlink(path)
        if start == 0:
            break
    raise DamagedError(f"the content of `{entry.path}` does not match its digest")


def _complete(
    shared: SharedStore,
    entry: ManifestEntry,
    descriptor: int,
    count: _Count,
    requests: ThreadPoolExecutor,
    stop: threading.Event,
) -> bool:
    """Append what is missing; return whether the complete file matches its digest."""
    from blake3 import blake3

    hasher = blake3()
    have = 0
    while part := os.pread(descriptor, _CHUNK, have):
        hasher.update(part)
        have += len(part)
    count.add(have)
    for part in _chunks(shared, entry, have, requests):
        if stop.is_set():
            raise OSError(errno.ECANCELED, "another file could not be written")
        _write_all(descriptor, part, have)
        have += len(part)
        hasher.update(part)
        count.add(len(part))
        fault_point("pull-chunk")
    if have == entry.size and hasher.hexdigest() == entry.digest:
        return True
    count.add(-have)
    return False


def _chunks(
    shared: SharedStore, entry: ManifestEntry, start: int, requests: ThreadPoolExecutor
) -> Iterator[bytes]:
    """Yield the bytes from ``start`` on, in order, requesting chunks ahead."""

    def read(begin: int, end: int) -> bytes:
        try:
            return shared.read_part(names.blob(entry.digest), begin, end)
        except FileNotFoundError:
            raise DamagedError(f"the content of `{entry.path}` is missing") from None
        except MalformedError as error:
            raise DamagedError(f"the content of `{entry.path}` {error}") from None

    ahead: deque[tuple[int, Future[bytes]]] = deque()
    following = start
    try:
        while following < entry.size or ahead:
            while following < entry.size and len(ahead) < _AHEAD:
                chunk = _CHUNK if shared.place.streams else shared.calls.piece
                end = min(following + chunk, entry.size)
                ahead.append((end - following, requests.submit(read, following, end)))
                following = end
            expected, task = ahead.popleft()
            part = task.result()
            if len(part) != expected:
                raise DamagedError(f"the content of `{entry.path}` is truncated")
            yield part
    finally:
        for _, task in ahead:
            task.cancel()


@contextmanager
def _locked_file(path: Path) -> Iterator[int]:
    """Open the file at ``path`` exclusively for this process and thread; created if missing."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            with suppress(FileNotFoundError):
                if os.stat(path).st_ino == os.fstat(descriptor).st_ino:
                    yield descriptor
                    return
        finally:
            os.close(descriptor)


def _write_all(descriptor: int, part: bytes, offset: int) -> None:
    view = memoryview(part)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


@contextmanager
def _staging(store: Store) -> Iterator[Path]:
    """Create a staging directory, which a later apply sweeps if this process is killed."""
    with wait_lock(store.lock("staging")):
        place = Path(tempfile.mkdtemp(prefix="pull-", dir=store.staging))
        lock = try_lock(place / "lock")
    try:
        yield place
    finally:
        remove_tree(place)
        if lock is not None:
            lock.release()


def _assemble(store: Store, out: Path, tree: Tree) -> DamagedError | None:
    """Publish an artifact whose contents are all here; return the error, if any."""
    try:
        for entry in tree.entries:
            target = out / entry.path
            target.parent.mkdir(parents=True, exist_ok=True)
            if not _materialize(store, entry, target):
                return DamagedError(f"the content of `{entry.path}` was removed in the meantime")
    except OSError as error:
        if error.errno in _BAD_NAMES:
            return DamagedError(f"this file system does not support its file names: {error.strerror}")
        raise
    publish_known(store, out, tree)
    for entry in tree.entries:
        (partial_directory(store) / entry.digest).unlink(missing_ok=True)
    return None


def _materialize(store: Store, entry: ManifestEntry, target: Path) -> bool:
    """Create ``target`` for ``entry``: a link if the permissions are the same, else a copy. False if no source."""
    downloaded = partial_directory(store) / entry.digest
    same_mode = store.object(entry.digest, entry.executable)
    other_mode = store.object(entry.digest, not entry.executable)
    for source, linked in ((same_mode, True), (downloaded, not entry.executable), (other_mode, False)):
        if not source.exists():
            continue
        if linked:
            with suppress(OSError):
                os.link(source, target)
                return True
        with suppress(FileNotFoundError):  # removed just now: another process has published it
            shutil.copyfile(source, target)
            os.chmod(target, 0o755 if entry.executable else 0o644)
            return True
    return False


def _mark_used(shared: SharedStore, digests: Sequence[str]) -> None:
    """Mark artifacts as used, for ``cache gc --remote``, if this user can write there. Errors are ignored."""
    if not shared.settings.push or not shared.place.writable:
        return
    for digest in digests:
        with suppress(UnreachableError, FileNotFoundError):
            shared.calls.do(partial(shared.place.write, names.used(digest), b""))
