"""Garbage collection: removes artifacts that no named build reaches, least recently used first."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from mmbuild.core.store.action_cache import load_cache, rewrite
from mmbuild.core.store.atomic_files import discard, names_in
from mmbuild.core.store.layout import Store
from mmbuild.core.store.locks import exclusive_lock
from mmbuild.core.store.named_builds import all_roots, root_path
from mmbuild.core.store.reachability import Reachable, reachable_artifacts

_LOG_SECONDS = 30 * 86400.0
"""Every gc removes logs and plans that are older than this."""

_PARTIAL_SECONDS = 86400.0
"""A partial download older than this is treated as abandoned."""


class Collectable(Protocol):
    """What gc knows about an artifact of any store; the attributes are those of :class:`Reachable`."""

    @property
    def digest(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def used(self) -> float: ...


T = TypeVar("T", bound=Collectable)


@dataclass(frozen=True, slots=True)
class GcResult:
    """What gc removed, or would remove.

    Attributes:
        removed: Removed artifacts.
        freed: Bytes of file contents that no remaining artifact shares.
        kept: Number of remaining artifacts.
        kept_size: Bytes in the store afterwards.
    """

    removed: tuple[Collectable, ...]
    freed: int
    kept: int
    kept_size: int


def collect(
    store: Store,
    *,
    max_size: int | None = None,
    older_than: float | None = None,
    dry_run: bool = False,
) -> GcResult:
    """Remove artifacts that no named build reaches.

    A named build is an engine directory that exists; everything it was built from is kept, so that its next
    change can reuse it.

    Args:
        store: The store.
        max_size: Stop once the store is no larger than this, bytes; None removes every unreachable artifact.
        older_than: Remove only artifacts unused for at least this many seconds.
        dry_run: Remove nothing.

    Raises:
        MmbuildError: MM305, a build is using the store.
    """
    now = time.time()
    with exclusive_lock(store):
        artifacts = reachable_artifacts(store, load_cache(store))
        removed = least_recently_used(
            artifacts,
            _files,
            kept=lambda artifact: bool(artifact.recipes),
            max_size=max_size,
            before=None if older_than is None else now - older_than,
        )
        gone = {artifact.digest for artifact in removed}
        kept = [artifact for artifact in artifacts if artifact.digest not in gone]
        freed = _content_size(artifacts) - _content_size(kept)
        result = GcResult(tuple(removed), freed, len(kept), _content_size(kept))
        if not dry_run:
            _remove(store, removed, kept, now)
    return result


def least_recently_used(
    artifacts: Sequence[T],
    contents: Callable[[T], Mapping[str, int]],
    *,
    kept: Callable[[T], bool],
    max_size: int | None,
    before: float | None,
) -> list[T]:
    """The artifacts to remove from a store, least recently used first.

    Args:
        artifacts: All artifacts, most recently used first.
        contents: Returns the sizes of an artifact's files by name, bytes; artifacts may share files.
        kept: Whether an artifact must be kept.
        max_size: Stop once the store is no larger than this, bytes; None removes everything else.
        before: Remove only artifacts last used before this time, seconds since the epoch.
    """
    candidates = [item for item in reversed(artifacts) if not kept(item)]
    if before is not None:
        candidates = [item for item in candidates if item.used < before]
    if max_size is None:
        return candidates
    references = Counter(name for item in artifacts for name in contents(item))
    size = sum({name: count for item in artifacts for name, count in contents(item).items()}.values())
    chosen: list[T] = []
    for item in candidates:
        if size <= max_size:
            break
        chosen.append(item)
        for name, count in contents(item).items():
            references[name] -= 1
            size -= count if references[name] == 0 else 0
    return chosen


def _files(artifact: Reachable) -> Mapping[str, int]:
    """Return the sizes of an artifact's distinct objects by name, bytes."""
    entries = artifact.tree.entries if artifact.tree is not None else ()
    return {entry.digest + "x" * entry.executable: entry.size for entry in entries if entry.ref is None}


def _content_size(artifacts: list[Reachable]) -> int:
    """Return the total bytes of distinct file contents."""
    return sum({name: size for artifact in artifacts for name, size in _files(artifact).items()}.values())


def _remove(store: Store, removed: list[Reachable], kept: list[Reachable], now: float) -> None:
    for artifact in removed:  # the manifest first: without it the artifact does not exist
        discard(store.manifest(artifact.digest))
        discard(store.tree(artifact.digest))
    alive = {name for artifact in kept for name in _files(artifact)}
    for shard in names_in(store.objects):
        for path in names_in(shard):
            if path.name not in alive:
                discard(path)
    for path in names_in(store.trees):  # left by a kill before the manifest was written
        if not store.has(path.name):
            discard(path)
    for root in all_roots(store):
        if not Path(root.directory).is_dir():
            discard(root_path(store, root.directory))
    rewrite(store, load_cache(store).by_key.values())
    _remove_old(store, now)


def _remove_old(store: Store, now: float) -> None:
    """Remove staging of killed builds, locks (none is held, since gc is alone), old logs and plans, partial pulls."""
    for path in [*names_in(store.staging), *names_in(store.root / "locks")]:
        discard(path)
    for name in ("logs", "plans"):
        _remove_older(store.root / name, now - _LOG_SECONDS)
    _remove_older(store.root / "remote" / "partial", now - _PARTIAL_SECONDS)


def _remove_older(directory: Path, then: float) -> None:
    for path in names_in(directory):
        if path.lstat().st_mtime < then:
            discard(path)
