"""Shrinking a store: what no named build reaches goes, the longest unused first."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from mmbuild.core.store.action_cache import load_cache, rewrite
from mmbuild.core.store.atomic_files import discard, names_in
from mmbuild.core.store.layout import Store
from mmbuild.core.store.locks import exclusive_lock
from mmbuild.core.store.reachability import Reachable, reachable_artifacts
from mmbuild.core.store.roots import all_roots, root_path

_LOG_SECONDS = 30 * 86400.0
"""Logs and plans that nobody touched for this long go with any gc."""

_PARTIAL_SECONDS = 86400.0
"""A pull that nobody took up again for this long is not going on."""


@dataclass(frozen=True, slots=True)
class GcResult:
    """What gc removed, or would remove.

    Attributes:
        removed: The artifacts.
        freed: Bytes of file contents that no other artifact shares.
        kept: Artifacts that stay.
        kept_size: Bytes in the store afterwards.
    """

    removed: tuple[Reachable, ...]
    freed: int
    kept: int
    kept_size: int


def collect(
    store: Store,
    *,
    max_size: int | None = None,
    older_than: float | None = None,
    dry_run: bool = False,
    now: float | None = None,
) -> GcResult:
    """Remove artifacts that no named build reaches.

    A named build is an engine directory that exists; everything it was made from is kept, so that its next
    change starts from there.

    Args:
        store: Which.
        max_size: Stop as soon as the store is no larger, bytes; None means remove all that may go.
        older_than: Only what was not used for so many seconds.
        dry_run: Remove nothing.
        now: Seconds since the epoch; None means the clock.

    Raises:
        MmbuildError: MM305 a build is using the store.
    """
    moment = time.time() if now is None else now
    with exclusive_lock(store):
        held = reachable_artifacts(store, load_cache(store))
        removed = _choose(held, max_size, older_than, moment)
        gone = {item.digest for item in removed}
        kept = [item for item in held if item.digest not in gone]
        swept = GcResult(tuple(removed), _contents(held) - _contents(kept), len(kept), _contents(kept))
        if not dry_run:
            _remove(store, removed, kept, moment)
    return swept


def _choose(
    held: list[Reachable], max_size: int | None, older_than: float | None, now: float
) -> list[Reachable]:
    """Longest unused first."""
    free = [item for item in reversed(held) if not item.recipes]
    if older_than is not None:
        free = [item for item in free if item.used < now - older_than]
    if max_size is None:
        return free
    owners = _owners(held)
    size = _contents(held)
    chosen: list[Reachable] = []
    for item in free:
        if size <= max_size:
            break
        chosen.append(item)
        for name, count in _files(item):
            owners[name] -= 1
            size -= count if owners[name] == 0 else 0
    return chosen


def _owners(held: list[Reachable]) -> dict[str, int]:
    owners: dict[str, int] = {}
    for item in held:
        for name, _ in _files(item):
            owners[name] = owners.get(name, 0) + 1
    return owners


def _files(item: Reachable) -> set[tuple[str, int]]:
    """Objects of an artifact, each once: (name, bytes)."""
    entries = item.tree.entries if item.tree is not None else ()
    return {(entry.digest + "x" * entry.executable, entry.size) for entry in entries if entry.ref is None}


def _contents(held: list[Reachable]) -> int:
    """Bytes of distinct file contents."""
    return sum(size for _, size in {file for item in held for file in _files(item)})


def _remove(store: Store, removed: list[Reachable], kept: list[Reachable], now: float) -> None:
    for item in removed:  # the manifest first: without it the artifact does not exist
        discard(store.manifest(item.digest))
        discard(store.tree(item.digest))
    alive = {name for item in kept for name, _ in _files(item)}
    for shard in names_in(store.objects):
        for path in names_in(shard):
            if path.name not in alive:
                discard(path)
    for path in names_in(store.trees):  # left by a kill before its manifest
        if not store.has(path.name):
            discard(path)
    for root in all_roots(store):
        if not Path(root.directory).is_dir():
            discard(root_path(store, root.directory))
    rewrite(store, load_cache(store).by_key.values())
    _remove_old(store, now)


def _remove_old(store: Store, now: float) -> None:
    """Staging of killed builds, locks (nobody holds one: gc is alone), old logs and plans, and what pulls left."""
    for path in [*names_in(store.staging), *names_in(store.root / "locks")]:
        discard(path)
    for name in ("logs", "plans"):
        _remove_older(store.root / name, now - _LOG_SECONDS)
    _remove_older(store.root / "remote" / "partial", now - _PARTIAL_SECONDS)


def _remove_older(directory: Path, then: float) -> None:
    for path in names_in(directory):
        if path.lstat().st_mtime < then:
            discard(path)
