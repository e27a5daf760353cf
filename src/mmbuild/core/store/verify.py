"""Verifies a store: every object against its name, every artifact against its manifest, every build against both.

Damaged content is removed together with everything that may have been built from it: a step that read a damaged input
produced a wrong result under the right key. Those results are dropped from the journal and builds are marked before
anything is removed, so that a killed check finds the same damage again.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from mmbuild.base.errors import MmbuildError
from mmbuild.base.field_checks import is_digest
from mmbuild.base.progress import BYTES, Amount, Progress, silent
from mmbuild.core.store.action_cache import ActionCache, load_cache, rewrite
from mmbuild.core.store.atomic_files import discard, names_in
from mmbuild.core.store.build_check import altered_files
from mmbuild.core.store.disk_errors import fault_point
from mmbuild.core.store.hashing import hash_file, hash_files
from mmbuild.core.store.layout import Store
from mmbuild.core.store.locks import exclusive_lock
from mmbuild.core.store.manifest import Tree, read_tree
from mmbuild.core.store.named_builds import all_roots, scan_files, write_root

_REPORTED, _REPORTED_FILES = 256 << 20, 1000
"""Bytes and files that are hashed between two reports of progress."""


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """Result of a check.

    Attributes:
        objects: Number of files that were read and hashed.
        artifacts: Number of artifacts that were compared with their manifests.
        faults: A sentence for each damaged object or artifact, which was removed and is built again when needed.
        leftovers: Number of incomplete pieces left by killed builds (not damage).
        consumers: Labels of results that were built from damaged content and were removed too.
        builds: A sentence for each untrusted engine directory, which the next apply installs again.
    """

    objects: int
    artifacts: int
    faults: tuple[str, ...]
    leftovers: int
    consumers: tuple[str, ...] = ()
    builds: tuple[str, ...] = ()


def check_store(store: Store, progress: Progress = silent) -> VerifyResult:
    """Hash everything again; remove damaged content and everything built from it.

    Args:
        store: The store.
        progress: Called with the bytes of the objects that were hashed.

    Raises:
        MmbuildError: MM305, a build is using the store.
    """
    with exclusive_lock(store):
        objects, damaged = _check_objects(store, progress)
        manifests = [path for path in names_in(store.root / "manifests") if not path.name.startswith(".")]
        artifacts = _artifact_faults(store, manifests, {path.name for path in damaged})
        labels, builds, torn = _invalidate_users(store, {path.stem for path in artifacts})
        fault_point("verify-forgotten")
        for path in damaged:
            discard(path)
        for path in artifacts:
            _remove_artifact(store, path)
        leftovers = _leftovers(store)
        for path in leftovers:
            discard(path)
    faults = [
        *map(_object_fault, damaged),
        *(f"artifact `{path.stem}` {fault}" for path, fault in artifacts.items()),
    ]
    return VerifyResult(objects, len(manifests), tuple(faults), len(leftovers) + torn, labels, builds)


def remove_damaged(store: Store, digests: Collection[str]) -> int:
    """Remove artifacts known to be damaged and everything built from them, as :func:`check_store` does.

    Returns:
        The number of damaged artifacts that were in the store.

    Raises:
        MmbuildError: MM305, another process is using the store.
    """
    with exclusive_lock(store):
        _invalidate_users(store, set(digests))
        paths = [store.manifest(digest) for digest in digests if store.has(digest)]
        for path in paths:
            _remove_artifact(store, path)
    return len(paths)


def _invalidate_users(store: Store, gone: Collection[str]) -> tuple[tuple[str, ...], tuple[str, ...], int]:
    """Drop results that were built from artifacts in ``gone``, and mark builds.

    Returns:
        Labels of the dropped results, a sentence for each marked build, and the number of torn journal lines.
    """
    cache = load_cache(store)
    voided = _consumers(cache, gone)
    builds = _check_builds(store, {*gone, *(cache.by_key[key].digest for key in voided)})
    labels = tuple(cache.by_key[key].label for key in voided)
    if voided:
        _drop_results(store, cache, voided, gone)
    return labels, builds, cache.torn


def _check_objects(store: Store, progress: Progress) -> tuple[int, list[Path]]:
    """Return the number of objects, and those that do not match the digest in their name."""
    shards = names_in(store.objects)
    paths = [path for shard in shards for path in names_in(shard)]
    misplaced = [shard for shard in shards if not _is_directory(shard)]
    misplaced += [path for path in paths if not _is_file(path)]
    files = sorted(set(paths) - set(misplaced))
    damaged = [
        path
        for path, digest in zip(files, _digests(files, progress), strict=True)
        if digest != path.name.removesuffix("x")
    ]
    return len(paths), sorted({*misplaced, *damaged})


def _digests(files: list[Path], progress: Progress) -> list[str]:
    """Return the digest of each file; empty if it cannot be read."""
    sizes = [_size_or_zero(path) for path in files]
    done, reported, total, start = 0, 0, sum(sizes), 0
    digests: list[str] = []
    for end, size in enumerate(sizes, start=1):
        done += size
        if done - reported >= _REPORTED or end - start >= _REPORTED_FILES or end == len(files):
            digests += _digests_of_part(files[start:end])
            progress("", Amount(done, total, BYTES))
            start, reported = end, done
    return digests


def _digests_of_part(files: list[Path]) -> list[str]:
    try:
        return hash_files(files)
    except (OSError, MmbuildError):
        return [_digest_or_empty(path) for path in files]


def _size_or_zero(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _digest_or_empty(path: Path) -> str:
    try:
        return hash_file(path)
    except (OSError, MmbuildError):
        return ""


def _object_fault(path: Path) -> str:
    if is_digest(path.name.removesuffix("x")):
        return f"`{path.name}` is damaged: it does not match its digest, or is not a regular file"
    return f"`{path.parent.name}/{path.name}` is not an object"


def _artifact_faults(store: Store, manifests: Iterable[Path], damaged: Collection[str]) -> dict[Path, str]:
    """Return the manifests of damaged artifacts, each with the problem."""
    faults: dict[Path, str] = {}
    for path in manifests:
        fault = (
            "is not the name of a manifest"
            if path.suffix != ".json"
            else _artifact_fault(store, path.stem, damaged)
        )
        if fault:
            faults[path] = fault
    return faults


def _artifact_fault(store: Store, digest: str, damaged: Collection[str]) -> str | None:
    try:
        tree = read_tree(store, digest)
    except MmbuildError:
        return "has a damaged manifest, or the manifest of another artifact"
    root = store.tree(digest)
    if not _is_directory(root) or set(scan_files(root)) != {entry.path for entry in tree.entries}:
        return "has missing files, or files that do not belong to it"
    return _content_fault(store, root, tree, damaged)


def _content_fault(store: Store, root: Path, tree: Tree, damaged: Collection[str]) -> str | None:
    for entry in tree.entries:
        path = root / entry.path
        if entry.ref is not None:
            if not path.is_symlink() or os.readlink(path) != entry.ref:
                return f"refers to another file at `{entry.path}`"
            continue
        if not _is_file(path):
            return f"has no regular file at `{entry.path}`"
        target = store.object(entry.digest, entry.executable)
        # A hard link to an object that was just hashed need not be read again.
        hashed = target.name not in damaged and target.exists() and target.samefile(path)
        if not hashed and _digest_or_empty(path) != entry.digest:
            return f"has different content at `{entry.path}`"
    return None


def _consumers(cache: ActionCache, gone: Collection[str]) -> list[str]:
    """Return the keys of results that were built from artifacts in ``gone``, directly or indirectly."""
    users: dict[str, list[str]] = {}
    for key, record in cache.by_key.items():
        for digest in record.inputs.values():
            users.setdefault(digest, []).append(key)
    keys: dict[str, None] = {}
    pending = list(gone)
    while pending:
        for key in users.get(pending.pop(), ()):
            if key not in keys:
                keys[key] = None
                pending.append(cache.by_key[key].digest)
    return list(keys)


def _drop_results(store: Store, cache: ActionCache, voided: Collection[str], gone: Collection[str]) -> None:
    """Remove results from the journal, and their artifacts unless another result has the same one."""
    dropped = set(voided)
    kept = [record for key, record in cache.by_key.items() if key not in dropped]
    kept_digests = {record.digest for record in kept}
    rewrite(store, kept)
    for key in voided:
        digest = cache.by_key[key].digest
        if digest not in kept_digests and digest not in gone:
            _remove_artifact(store, store.manifest(digest))


def _remove_artifact(store: Store, manifest: Path) -> None:
    discard(manifest)  # first: without it the artifact does not exist
    if manifest.suffix == ".json":
        discard(store.tree(manifest.stem))


def _check_builds(store: Store, voided: Collection[str]) -> tuple[str, ...]:
    """Mark the named builds that contain an artifact in ``voided``, or files that were changed."""
    problems = []
    for root in all_roots(store):
        if not os.path.isdir(root.directory):
            continue
        problem = ""
        if not set(voided).isdisjoint([*root.targets.values(), *root.artifacts.values()]):
            problem = "was built from a damaged artifact"
        elif names := altered_files(store, root):
            problem = f"was changed: `{names[0]}`" + (f" and {len(names) - 1} more" if len(names) > 1 else "")
        if problem:
            write_root(store, replace(root, void=problem))
            problems.append(f"`{root.directory}` {problem}")
    return tuple(problems)


def _leftovers(store: Store) -> list[Path]:
    """Return staging and trees without a manifest (a kill came between the two): nothing refers to them."""
    return [path for path in names_in(store.trees) if not store.has(path.name)] + names_in(store.staging)


def _is_directory(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _is_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False
