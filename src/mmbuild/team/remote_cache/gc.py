"""Garbage collection of a shared store: removes the least recently used artifacts and the entries that name them.

Builds may use the store at the same time: entries are removed before manifests and manifests before contents, so a
reader finds a complete result or none, or notices what is missing and builds. Ages use the server's clock.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from mmbuild.base.field_checks import is_digest
from mmbuild.base.limits import SHARED_ENTRY, STORE_TREE
from mmbuild.config.remote_errors import RemoteError
from mmbuild.core.store.gc import GcResult, least_recently_used
from mmbuild.team.remote_cache import object_store as names
from mmbuild.team.remote_cache.object_store import FileInfo, refusal
from mmbuild.team.remote_cache.records import EntryError, parse_entry, parse_manifest
from mmbuild.team.remote_cache.remote_cache import SharedStore
from mmbuild.team.remote_cache.retrying_client import MalformedError

_LOCK = "collect.lock"
_LOCK_SECONDS = 6 * 3600.0
"""An older lock was left by a killed process."""

_YOUNG_SECONDS = 86400.0
"""Unreferenced contents are kept this long: a client may be about to publish the artifact they belong to."""

_AT_ONCE = 16
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class GcCandidate:
    """An artifact in the shared store.

    Attributes:
        digest: Its digest.
        keys: Action keys whose entries name it.
        label: Label of the action that built it.
        size: Bytes of its files, including those shared with other artifacts.
        used: When it was published or last pulled by a client with write access, seconds since the epoch.
        contents: Sizes of its files by digest, bytes.
    """

    digest: str
    keys: tuple[str, ...]
    label: str
    size: int
    used: float
    contents: Mapping[str, int]


def collect(
    shared: SharedStore,
    *,
    max_size: int | None = None,
    older_than: float | None = None,
    keep: Collection[str] = (),
    dry_run: bool = False,
) -> GcResult:
    """Remove artifacts, least recently used first.

    Args:
        shared: The shared store.
        max_size: Stop once the store is no larger than this, bytes; None removes everything that is not kept.
        older_than: Remove only artifacts unused for at least this many seconds.
        keep: Artifacts to keep in any case: those of named builds.
        dry_run: Remove nothing.

    Raises:
        RemoteError: MM821; MM824, the store does not support locks; MM828, another gc is running.
    """
    with _lock(shared) as now:
        artifacts = _candidates(shared)
        removed = least_recently_used(
            artifacts,
            lambda item: item.contents,
            kept=lambda item: item.digest in keep,
            max_size=max_size,
            before=None if older_than is None else now - older_than,
        )
        gone = {item.digest for item in removed}
        kept = [item for item in artifacts if item.digest not in gone]
        objects = shared.calls.do(lambda: shared.place.walk("objects"))
        unreferenced = _unreferenced(
            objects, kept, now, {digest for item in removed for digest in item.contents}
        )
        if not dry_run:
            _remove(shared, removed, unreferenced)
            _abort_uploads(shared, now - _YOUNG_SECONDS)
    size = sum(info.size for info in objects.values())
    freed = sum(objects[name].size for name in unreferenced)
    return GcResult(tuple(removed), freed, len(kept), size - freed)


def _abort_uploads(shared: SharedStore, before: float) -> None:
    """Abort abandoned multipart uploads, which take space but are not listed as files."""
    place: Any = shared.place
    if place.in_parts:
        shared.calls.do(lambda: place.abort_older(before))


def _candidates(shared: SharedStore) -> list[GcCandidate]:
    """Return every artifact with an entry or a manifest, most recently used first. Damaged ones have no files."""
    entries = shared.calls.do(lambda: shared.place.walk("actions"))
    manifests = shared.calls.do(lambda: shared.place.walk("manifests"))
    marks = shared.calls.do(lambda: shared.place.walk("used"))
    used = {name.rpartition("/")[2]: info.changed for name, info in marks.items()}
    for name, info in manifests.items():
        digest = _stem(name)
        used[digest] = max(info.changed, used.get(digest, 0.0))
    named: dict[str, list[tuple[str, str]]] = {_stem(name): [] for name in manifests}
    for name, (digest, label) in _each(shared, list(entries), partial(_entry, shared)).items():
        named.setdefault(digest, []).append((_stem(name), label))
        used[digest] = max(entries[name].changed, used.get(digest, 0.0))
    files = _each(shared, [digest for digest in named if is_digest(digest)], partial(_files, shared))
    candidates = [
        GcCandidate(
            digest,
            tuple(key for key, _ in users),
            next((label for _, label in users), ""),
            sum(files.get(digest, {}).values()),
            used.get(digest, 0.0),
            files.get(digest, {}),
        )
        for digest, users in named.items()
    ]
    return sorted(candidates, key=lambda item: (-item.used, item.digest))


def _unreferenced(
    objects: Mapping[str, FileInfo], kept: Iterable[GcCandidate], now: float, released: Collection[str]
) -> list[str]:
    """Return contents that no kept artifact has: those of removed artifacts, and old ones that nothing references."""
    alive = {digest for item in kept for digest in item.contents}
    unreferenced = []
    for name, info in objects.items():
        digest = name.rpartition("/")[2]
        if digest not in alive and (digest in released or info.changed < now - _YOUNG_SECONDS):
            unreferenced.append(name)
    return unreferenced


def _remove(shared: SharedStore, removed: Sequence[GcCandidate], unreferenced: Sequence[str]) -> None:
    entries = [names.action(key) for item in removed for key in item.keys]
    manifests = [names.manifest(item.digest) for item in removed]
    marks = [names.used(item.digest) for item in removed]
    for group in (entries, manifests, [*unreferenced, *marks]):
        _each(shared, group, shared.place.remove)


def _each(shared: SharedStore, items: Sequence[str], function: Callable[[str], T]) -> dict[str, T]:
    """Return ``function`` of every item, called concurrently.

    Raises:
        RemoteError: MM821, a call failed after all retries.
    """
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        results = pool.map(lambda item: shared.calls.do(partial(function, item)), items)
        return dict(zip(items, results, strict=True))


def _entry(shared: SharedStore, name: str) -> tuple[str, str]:
    """Return the artifact that an entry names and its label; empty if the entry is damaged or gone."""
    try:
        result, _, _ = parse_entry(shared.place.read(name, 0, SHARED_ENTRY.size + 1), _stem(name))
        return result.record.digest, result.record.label
    except (FileNotFoundError, MalformedError, EntryError):
        return "", ""


def _files(shared: SharedStore, digest: str) -> Mapping[str, int]:
    try:
        tree = parse_manifest(shared.place.read(names.manifest(digest), 0, STORE_TREE.size + 1), digest)
    except (FileNotFoundError, MalformedError, EntryError):
        return {}
    return {entry.digest: entry.size for entry in tree.entries}


def _stem(name: str) -> str:
    return name.rpartition("/")[2].removesuffix(".json")


@contextmanager
def _lock(shared: SharedStore) -> Iterator[float]:
    """Hold the store's gc lock; provide the current time by the server's clock."""
    place, where = shared.place, shared.settings.shown
    if not place.writable:
        raise RemoteError(
            f"cannot run gc on `{where}`: {refusal(place.protocol)}",
            code="MM824",
            hint="gc needs a lock; run it where the files are, or let the server expire them",
        )
    content = f"{socket.gethostname()} {os.getpid()}\n".encode()
    for _ in range(2):
        try:
            shared.calls.do(lambda: place.create(_LOCK, content))
            break
        except FileExistsError:
            _remove_stale(shared, content)
    else:
        raise _busy(where)
    try:
        yield shared.calls.do(lambda: place.changed(_LOCK))
    finally:
        shared.calls.do(lambda: place.remove(_LOCK))


def _remove_stale(shared: SharedStore, content: bytes) -> None:
    """Remove a lock left by a killed process. Its age is relative to a file written now, by the server's clock."""
    place = shared.place
    clock = f"collect.clock-{os.getpid()}"
    try:
        shared.calls.do(lambda: place.write(clock, content))
        age = shared.calls.do(lambda: place.changed(clock)) - shared.calls.do(lambda: place.changed(_LOCK))
    except FileNotFoundError:
        return
    finally:
        shared.calls.do(lambda: place.remove(clock))
    if age < _LOCK_SECONDS:
        raise _busy(shared.settings.shown)
    shared.calls.do(lambda: place.remove(_LOCK))


def _busy(where: str) -> RemoteError:
    return RemoteError(
        f"another gc is running on `{where}`",
        code="MM828",
        hint=f"try again when it has finished; a lock expires after {_LOCK_SECONDS / 3600:.0f} hours",
    )
