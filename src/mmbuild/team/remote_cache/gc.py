"""Shrinking a shared store: the longest unused artifacts go, with the entries that name them.

Nothing breaks when a build uses the place meanwhile: entries go before manifests and manifests before contents, so
that a reader finds a result whole or not at all, or finds out and builds. Ages are by the place's own clock.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from mmbuild.base.limits import SHARED_ENTRY, STORE_TREE
from mmbuild.config.remote_warnings import RemoteError
from mmbuild.team.remote_cache import object_store as names
from mmbuild.team.remote_cache.object_store import FileInfo, refusal
from mmbuild.team.remote_cache.records import EntryError, parse_entry, parse_manifest
from mmbuild.team.remote_cache.remote_cache import SharedStore
from mmbuild.team.remote_cache.retrying_client import MalformedError

_LOCK = "collect.lock"
_LOCK_SECONDS = 6 * 3600.0
"""A lock that is older was left by a process that was killed."""

_YOUNG_SECONDS = 86400.0
"""Contents that nothing names stay so long: somebody may be about to publish what they belong to."""

_AT_ONCE = 16
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class GcCandidate:
    """An artifact of the place.

    Attributes:
        digest: Its digest.
        keys: Action keys whose entries name it.
        label: What it was called when it was built.
        size: Bytes of its files; those that it shares with other artifacts count too.
        used: Seconds since the epoch when it was published or last pulled by somebody who may write.
        contents: Digests of its files and their bytes.
    """

    digest: str
    keys: tuple[str, ...]
    label: str
    size: int
    used: float
    contents: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class RemoteGcResult:
    """What was removed, or would be; bytes freed, artifacts and bytes that stay."""

    removed: tuple[GcCandidate, ...]
    freed: int
    kept: int
    kept_size: int


def collect(
    shared: SharedStore,
    *,
    max_size: int | None = None,
    older_than: float | None = None,
    keep: Collection[str] = (),
    dry_run: bool = False,
) -> RemoteGcResult:
    """Remove artifacts, longest unused first.

    Args:
        shared: Where.
        max_size: Stop as soon as the place is no larger, bytes; None means remove all that may go.
        older_than: Only what was not used for so many seconds.
        keep: Artifacts that stay in any case: those of named builds.
        dry_run: Remove nothing.

    Raises:
        RemoteError: MM821; MM824, a lock cannot be taken there; MM828, somebody else is at it.
    """
    with _lock(shared) as now:
        held = _candidates(shared)
        removed = _choose(held, max_size, older_than, frozenset(keep), now)
        gone = {item.digest for item in removed}
        kept = [item for item in held if item.digest not in gone]
        objects = shared.calls.do(lambda: shared.place.walk("objects"))
        dead = _dead(objects, kept, now, {digest for item in removed for digest in item.contents})
        if not dry_run:
            _remove(shared, removed, dead)
            _end_uploads(shared, now - _YOUNG_SECONDS)
    size = sum(found.size for found in objects.values())
    freed = sum(objects[name].size for name in dead)
    return RemoteGcResult(tuple(removed), freed, len(kept), size - freed)


def _end_uploads(shared: SharedStore, before: float) -> None:
    """Uploads that nobody went on with take space and are in no listing."""
    place: Any = shared.place
    if place.in_parts:
        shared.calls.do(lambda: place.abort_older(before))


def _candidates(shared: SharedStore) -> list[GcCandidate]:
    """Every artifact that an entry names or that has a manifest, last used first. Damaged ones have no files."""
    entries = shared.calls.do(lambda: shared.place.walk("actions"))
    manifests = shared.calls.do(lambda: shared.place.walk("manifests"))
    marks = shared.calls.do(lambda: shared.place.walk("used"))
    used = {name.rpartition("/")[2]: found.changed for name, found in marks.items()}
    for name, found in manifests.items():
        digest = _stem(name)
        used[digest] = max(found.changed, used.get(digest, 0.0))
    named: dict[str, list[tuple[str, str]]] = {_stem(name): [] for name in manifests}
    for name, (digest, label) in _each(shared, list(entries), partial(_entry, shared)).items():
        named.setdefault(digest, []).append((_stem(name), label))
        used[digest] = max(entries[name].changed, used.get(digest, 0.0))
    files = _each(shared, [digest for digest in named if names.is_digest(digest)], partial(_files, shared))
    held = [
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
    return sorted(held, key=lambda item: (-item.used, item.digest))


def _choose(
    held: list[GcCandidate], max_size: int | None, older_than: float | None, keep: frozenset[str], now: float
) -> list[GcCandidate]:
    free = [item for item in reversed(held) if item.digest not in keep]
    if older_than is not None:
        free = [item for item in free if item.used < now - older_than]
    if max_size is None:
        return free
    owners: dict[str, int] = {}
    sizes: dict[str, int] = {}
    for item in held:
        sizes.update(item.contents)
        for digest in item.contents:
            owners[digest] = owners.get(digest, 0) + 1
    size = sum(sizes.values())
    chosen: list[GcCandidate] = []
    for item in free:
        if size <= max_size:
            break
        chosen.append(item)
        for digest, count in item.contents.items():
            owners[digest] -= 1
            size -= count if owners[digest] == 0 else 0
    return chosen


def _dead(
    objects: Mapping[str, FileInfo], kept: Iterable[GcCandidate], now: float, released: Collection[str]
) -> list[str]:
    """Contents that no artifact which stays has: those of removed ones, and old ones that nothing names."""
    alive = {digest for item in kept for digest in item.contents}
    dead = []
    for name, found in objects.items():
        digest = name.rpartition("/")[2]
        if digest not in alive and (digest in released or found.changed < now - _YOUNG_SECONDS):
            dead.append(name)
    return dead


def _remove(shared: SharedStore, removed: Sequence[GcCandidate], dead: Sequence[str]) -> None:
    entries = [names.action(key) for item in removed for key in item.keys]
    manifests = [names.manifest(item.digest) for item in removed]
    marks = [names.used(item.digest) for item in removed]
    for group in (entries, manifests, [*dead, *marks]):
        _each(shared, group, shared.place.remove)


def _each(shared: SharedStore, items: Sequence[str], function: Callable[[str], T]) -> dict[str, T]:
    """``function`` of every item, several at once.

    Raises:
        RemoteError: MM821, one of them failed for good.
    """
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        found = pool.map(lambda item: shared.calls.do(partial(function, item)), items)
        return dict(zip(items, found, strict=True))


def _entry(shared: SharedStore, name: str) -> tuple[str, str]:
    """The artifact that an entry names and its label; empty where it is damaged or gone."""
    try:
        found, _, _ = parse_entry(shared.place.read(name, 0, SHARED_ENTRY.size + 1), _stem(name))
        return found.record.digest, found.record.label
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
    """Hold the place's lock; the moment by the place's clock."""
    place, where = shared.place, shared.settings.shown
    if not place.writable:
        raise RemoteError(
            f"`{where}` cannot be collected: {refusal(place.protocol)}",
            code="MM824",
            hint="two who collect at once would need a lock; collect where the files are, or let them expire there",
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
    """Remove a lock that a killed process left. The clock is the place's: what it says of a file written just now."""
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
        f"somebody else is collecting `{where}`",
        code="MM828",
        hint=f"try again when that has ended; a lock older than {_LOCK_SECONDS / 3600:.0f} hours is taken over",
    )
