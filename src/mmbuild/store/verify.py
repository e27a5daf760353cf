"""Checking a store: every object against its name, every artifact against its manifest."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from mmbuild.errors import MmbuildError
from mmbuild.store.files import remove_tree
from mmbuild.store.hashing import hash_file, hash_files
from mmbuild.store.journal import load_cache
from mmbuild.store.layout import Store
from mmbuild.store.locks import alone
from mmbuild.store.publish import read_tree
from mmbuild.store.roots import scan_files
from mmbuild.store.tree import Tree, tree_digest


@dataclass(frozen=True, slots=True)
class Checked:
    """What a check found.

    Attributes:
        objects: Files that were read and hashed.
        artifacts: Artifacts that were compared with their manifests.
        faults: One sentence for each damage; what is damaged has been removed, and is built again when needed.
        leftovers: Incomplete pieces of killed builds (no damage).
    """

    objects: int
    artifacts: int
    faults: tuple[str, ...]
    leftovers: int


def check_store(store: Store) -> Checked:
    """Hash everything again; remove what is damaged.

    Raises:
        MmbuildError: MM305 a build is using the store.
    """
    with alone(store):
        objects, damaged = _check_objects(store)
        faults = [f"`{path.name}` holds other bytes than its name says" for path in damaged]
        for path in damaged:
            path.unlink()
        manifests = sorted(
            path for path in (store.root / "manifests").glob("*.json") if not path.name.startswith(".")
        )
        for manifest in manifests:
            fault = _artifact_fault(store, manifest.stem)
            if fault:
                faults.append(f"artifact `{manifest.stem}` {fault}")
                manifest.unlink()
                remove_tree(store.tree(manifest.stem))
        leftovers = _leftovers(store)
        for path in leftovers:
            remove_tree(path)
        torn = load_cache(store).torn
    return Checked(objects, len(manifests), tuple(faults), len(leftovers) + torn)


def _check_objects(store: Store) -> tuple[int, list[Path]]:
    paths = sorted(store.objects.glob("*/*"))
    digests = hash_files(paths)
    return len(paths), [path for path, digest in zip(paths, digests, strict=True) if digest != path.name[:64]]


def _artifact_fault(store: Store, digest: str) -> str | None:
    """What is wrong with an artifact whose objects have been checked, or None."""
    try:
        tree = read_tree(store, digest)
    except MmbuildError:
        return "has a damaged manifest"
    if tree_digest(tree) != digest:
        return "has a manifest of another artifact"
    root = store.tree(digest)
    if set(scan_files(root)) != {entry.path for entry in tree.entries}:
        return "lacks files, or has files that do not belong to it"
    return _content_fault(store, root, tree)


def _content_fault(store: Store, root: Path, tree: Tree) -> str | None:
    for entry in tree.entries:
        path = root / entry.path
        if entry.ref is not None:
            if os.readlink(path) != entry.ref:
                return f"refers to another file at `{entry.path}`"
            continue
        target = store.object(entry.digest, entry.executable)
        # A hard link to an object that was just hashed needs no second reading.
        if not (target.exists() and target.samefile(path)) and hash_file(path) != entry.digest:
            return f"holds other bytes at `{entry.path}`"
    return None


def _leftovers(store: Store) -> list[Path]:
    """Trees without a manifest (a kill came between the two) and staging: nothing refers to them."""
    return [path for path in store.trees.iterdir() if not store.has(path.name)] + list(
        store.staging.iterdir()
    )
