"""Checking a store: every object against its name, every artifact against its manifest, every build against both.

What is damaged goes, and with it everything that may have been built from it: a step that read a damaged input left a
wrong result under the right key. The journal forgets those results and builds are marked before anything is removed,
so that a check that is killed finds the same damage again.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from mmbuild.base.errors import MmbuildError
from mmbuild.base.field_checks import is_digest
from mmbuild.core.store.action_cache import ActionCache, load_cache, rewrite
from mmbuild.core.store.atomic_files import discard, names_in
from mmbuild.core.store.build_check import altered_files, invalidate
from mmbuild.core.store.disk_errors import fault_point
from mmbuild.core.store.hashing import hash_file, hash_files
from mmbuild.core.store.layout import Store
from mmbuild.core.store.locks import exclusive_lock
from mmbuild.core.store.manifest import Tree, read_tree
from mmbuild.core.store.roots import all_roots, scan_files, write_root


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """What a check found.

    Attributes:
        objects: Files that were read and hashed.
        artifacts: Artifacts that were compared with their manifests.
        faults: One sentence for each damage; what is damaged has been removed, and is built again when needed.
        leftovers: Incomplete pieces of killed builds (no damage).
        consumers: Labels of results that were built from what is damaged; removed too.
        builds: One sentence for each engine directory that is not to be trusted; the next apply lays it out again.
    """

    objects: int
    artifacts: int
    faults: tuple[str, ...]
    leftovers: int
    consumers: tuple[str, ...] = ()
    builds: tuple[str, ...] = ()


def check_store(store: Store) -> VerifyResult:
    """Hash everything again; remove what is damaged and what was built from it.

    Raises:
        MmbuildError: MM305 a build is using the store.
    """
    with exclusive_lock(store):
        objects, damaged = _check_objects(store)
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
    """Remove artifacts that are known to be damaged, and what was built from them, as :func:`check_store` does.

    Returns:
        How many of them there were.

    Raises:
        MmbuildError: MM305 another process is using the store.
    """
    with exclusive_lock(store):
        _invalidate_users(store, set(digests))
        paths = [store.manifest(digest) for digest in digests if store.has(digest)]
        for path in paths:
            _remove_artifact(store, path)
    return len(paths)


def _invalidate_users(store: Store, gone: Collection[str]) -> tuple[tuple[str, ...], tuple[str, ...], int]:
    """Forget what was built from artifacts in ``gone``, and mark builds.

    Returns:
        Labels of what was forgotten, a sentence for each build, and how many lines of the journal are torn.
    """
    cache = load_cache(store)
    voided = _consumers(cache, gone)
    builds = _check_builds(store, {*gone, *(cache.by_key[key].digest for key in voided)})
    labels = tuple(cache.by_key[key].label for key in voided)
    if voided:
        _forget(store, cache, voided, gone)
    return labels, builds, cache.torn


def _check_objects(store: Store) -> tuple[int, list[Path]]:
    """How many there are, and those that do not hold what their names say."""
    shards = names_in(store.objects)
    paths = [path for shard in shards for path in names_in(shard)]
    odd = [shard for shard in shards if not _is_directory(shard)]
    odd += [path for path in paths if not _is_file(path)]
    files = sorted(set(paths) - set(odd))
    wrong = [
        path
        for path, digest in zip(files, _digests(files), strict=True)
        if digest != path.name.removesuffix("x")
    ]
    return len(paths), sorted({*odd, *wrong})


def _digests(files: list[Path]) -> list[str]:
    """Empty for those that cannot be read."""
    try:
        return hash_files(files)
    except (OSError, MmbuildError):
        return [_digest_or_none(path) for path in files]


def _digest_or_none(path: Path) -> str:
    try:
        return hash_file(path)
    except (OSError, MmbuildError):
        return ""


def _object_fault(path: Path) -> str:
    if is_digest(path.name.removesuffix("x")):
        return f"`{path.name}` is damaged: it holds other bytes than its name says, or is not a regular file"
    return f"`{path.parent.name}/{path.name}` is not an object"


def _artifact_faults(store: Store, manifests: Iterable[Path], damaged: Collection[str]) -> dict[Path, str]:
    """Manifests of artifacts that are not what they should be, with what is wrong."""
    found: dict[Path, str] = {}
    for path in manifests:
        fault = (
            "is not the name of a manifest"
            if path.suffix != ".json"
            else _artifact_fault(store, path.stem, damaged)
        )
        if fault:
            found[path] = fault
    return found


def _artifact_fault(store: Store, digest: str, damaged: Collection[str]) -> str | None:
    try:
        tree = read_tree(store, digest)
    except MmbuildError:
        return "has a damaged manifest, or that of another artifact"
    root = store.tree(digest)
    if not _is_directory(root) or set(scan_files(root)) != {entry.path for entry in tree.entries}:
        return "lacks files, or has files that do not belong to it"
    return _content_fault(store, root, tree, damaged)


def _content_fault(store: Store, root: Path, tree: Tree, damaged: Collection[str]) -> str | None:
    for entry in tree.entries:
        path = root / entry.path
        if entry.ref is not None:
            if not path.is_symlink() or os.readlink(path) != entry.ref:
                return f"refers to another file at `{entry.path}`"
            continue
        if not _is_file(path):
            return f"has something else than a file at `{entry.path}`"
        target = store.object(entry.digest, entry.executable)
        # A hard link to an object that was just hashed needs no second reading.
        hashed = target.name not in damaged and target.exists() and target.samefile(path)
        if not hashed and _digest_or_none(path) != entry.digest:
            return f"holds other bytes at `{entry.path}`"
    return None


def _consumers(cache: ActionCache, gone: Collection[str]) -> list[str]:
    """Keys of the results that were built from artifacts in ``gone``, directly or not."""
    users: dict[str, list[str]] = {}
    for key, record in cache.by_key.items():
        for digest in record.inputs.values():
            users.setdefault(digest, []).append(key)
    found: dict[str, None] = {}
    pending = list(gone)
    while pending:
        for key in users.get(pending.pop(), ()):
            if key not in found:
                found[key] = None
                pending.append(cache.by_key[key].digest)
    return list(found)


def _forget(store: Store, cache: ActionCache, voided: Collection[str], gone: Collection[str]) -> None:
    """Take results out of the journal, and away their artifacts that are not also the result of something else."""
    dropped = set(voided)
    kept = [record for key, record in cache.by_key.items() if key not in dropped]
    still = {record.digest for record in kept}
    rewrite(store, kept)
    for key in voided:
        digest = cache.by_key[key].digest
        if digest not in still and digest not in gone:
            _remove_artifact(store, store.manifest(digest))


def _remove_artifact(store: Store, manifest: Path) -> None:
    discard(manifest)  # first: without it the artifact does not exist
    if manifest.suffix == ".json":
        discard(store.tree(manifest.stem))


def _check_builds(store: Store, voided: Collection[str]) -> tuple[str, ...]:
    """Mark the named builds that hold something of ``voided``, or other bytes than were laid out."""
    found = []
    for root in all_roots(store):
        if not os.path.isdir(root.directory):
            continue
        why = ""
        if not set(voided).isdisjoint([*root.targets.values(), *root.artifacts.values()]):
            why = "was built from something that was damaged"
        elif names := altered_files(store, root):
            why = f"was altered: `{names[0]}`" + (f" and {len(names) - 1} more" if len(names) > 1 else "")
        if why:
            write_root(store, invalidate(root, why))
            found.append(f"`{root.directory}` {why}")
    return tuple(found)


def _leftovers(store: Store) -> list[Path]:
    """Trees without a manifest (a kill came between the two) and staging: nothing refers to them."""
    return [path for path in names_in(store.trees) if not store.has(path.name)] + names_in(store.staging)


def _is_directory(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _is_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False
