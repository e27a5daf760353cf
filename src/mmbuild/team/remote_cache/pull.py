"""Artifacts from the shared store: every byte is hashed while it comes, and nothing counts before it is whole.

Contents come into ``remote/partial`` of the local store and go on from where they stopped. An artifact is put
together aside and published like one that was built here.
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
"""Chunks of one file that are asked for before they are needed."""

_BAD_NAMES = (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, errno.ENOTDIR, errno.EISDIR, errno.EEXIST)
"""What a file system says of names that it does not have, or that it takes for the same."""

_FILES = 4
"""Files at once."""

Progress = Callable[[int, int], None]
"""``progress(bytes so far, bytes in all)``."""


class DamagedError(Exception):
    """What came is not what its name says."""


def partial_directory(store: Store) -> Path:
    """Where contents lie that are on their way."""
    return store.root / "remote" / "partial"


def pull(shared: SharedStore, digests: Sequence[str], progress: Progress | None = None) -> Mapping[str, str]:
    """Bring artifacts into the local store.

    Args:
        shared: Where from.
        digests: Which; those that are here already cost nothing.
        progress: Called from other threads.

    Returns:
        Why some of them did not come, by digest; they have been told, and are not asked for again in this run.

    Raises:
        MmbuildError: MM302 the disk is full.
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
        shared.bad.update({digest: str(why) for digest, why in failed.items()})
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
    for digest, why in failed.items():
        if isinstance(why, UnreachableError):
            shared.mark_unreachable(digest, why)
        elif digest not in shared.bad:
            shared.mark_corrupt(digest, str(why))
    _mark_used(shared, [digest for digest in trees if digest not in failed])
    return {digest: str(why) for digest, why in failed.items()}


@dataclass(slots=True)
class _Count:
    """Bytes that have come, of all files together."""

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
    """Files of ``tree`` whose bytes are not in the local store."""
    for entry in tree.entries:
        if not (store.object(entry.digest).exists() or store.object(entry.digest, executable=True).exists()):
            yield entry


def _too_large(store: Store, trees: Mapping[str, Tree]) -> dict[str, DamagedError]:
    """Artifacts that the disk has no room for, with the reason; smaller ones are counted first. A manifest may claim
    any size: the others are pulled, and these are built here."""
    free = left = shutil.disk_usage(store.root).free
    needed = {
        digest: sum({e.digest: e.size for e in _missing(store, tree)}.values())
        for digest, tree in trees.items()
    }
    found = {}
    for digest, size in sorted(needed.items(), key=lambda item: item[1]):
        left -= size
        if left < 0:
            found[digest] = DamagedError(
                f"it takes {size / 1e6:,.1f} MB, and `{store.root}` has {free / 1e6:,.1f} MB free"
            )
    return found


def _download(shared: SharedStore, entries: Sequence[ManifestEntry], count: _Count) -> dict[str, Exception]:
    """Contents into the partial directory, several at once; what is wrong with some, by digest.

    Raises:
        OSError: Of the local disk.
    """
    faults: dict[str, Exception] = {}
    stop = threading.Event()
    # Large ones first: the last one to come should be short.
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
    """One file. What an earlier run left of it may be damaged: then once more from the beginning."""
    path = partial_directory(shared.store) / entry.digest
    for _ in range(2):
        with _opened(path) as descriptor:
            start = os.fstat(descriptor).st_size
            if _complete(shared, entry, descriptor, count, requests, stop):
                return
            os.unlink(path)
        if start == 0:
            break
    raise DamagedError(f"the bytes of `{entry.path}` are not what its digest says")


def _complete(
    shared: SharedStore,
    entry: ManifestEntry,
    descriptor: int,
    count: _Count,
    requests: ThreadPoolExecutor,
    stop: threading.Event,
) -> bool:
    """Append what is missing; whether the whole has the right digest."""
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
    """The bytes from ``start`` on, in order, asked for ahead."""

    def read(begin: int, end: int) -> bytes:
        try:
            return shared.read_part(names.blob(entry.digest), begin, end)
        except FileNotFoundError:
            raise DamagedError(f"the bytes of `{entry.path}` are missing") from None
        except MalformedError as error:
            raise DamagedError(f"what should be the bytes of `{entry.path}` {error}") from None

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
                raise DamagedError(f"the bytes of `{entry.path}` are cut short")
            yield part
    finally:
        for _, task in ahead:
            task.cancel()


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """The file at ``path`` for this process and thread alone; made when absent."""
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
    """A staging directory that a later apply sweeps when this process is killed."""
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
    """Publish an artifact whose contents are all here; what is wrong, if anything."""
    try:
        for entry in tree.entries:
            target = out / entry.path
            target.parent.mkdir(parents=True, exist_ok=True)
            if not _materialize(store, entry, target):
                return DamagedError(f"the bytes of `{entry.path}` are gone again")
    except OSError as error:
        if error.errno in _BAD_NAMES:
            return DamagedError(f"its files cannot have their names here: {error.strerror}")
        raise
    publish_known(store, out, tree)
    for entry in tree.entries:
        (partial_directory(store) / entry.digest).unlink(missing_ok=True)
    return None


def _materialize(store: Store, entry: ManifestEntry, target: Path) -> bool:
    """Make ``target`` the file of ``entry``: a link where the rights are the same, else a copy."""
    fresh = partial_directory(store) / entry.digest
    same, twin = (
        store.object(entry.digest, entry.executable),
        store.object(entry.digest, not entry.executable),
    )
    for source, linked in ((same, True), (fresh, not entry.executable), (twin, False)):
        if not source.exists():
            continue
        if linked:
            with suppress(OSError):
                os.link(source, target)
                return True
        with suppress(FileNotFoundError):  # gone in this moment: another process has published it
            shutil.copyfile(source, target)
            os.chmod(target, 0o755 if entry.executable else 0o644)
            return True
    return False


def _mark_used(shared: SharedStore, digests: Sequence[str]) -> None:
    """Tell ``cache gc --remote`` that somebody needed these, where this user may write. No failure if not."""
    if not shared.settings.push or not shared.place.writable:
        return
    for digest in digests:
        with suppress(UnreachableError, FileNotFoundError):
            shared.calls.do(partial(shared.place.write, names.used(digest), b""))
