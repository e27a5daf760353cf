"""Artifacts as data: a sorted list of entries, identified by a digest."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from mmbuild.base.canonical_json import canonical_json
from mmbuild.base.errors import MmbuildError
from mmbuild.base.field_checks import is_inner_path
from mmbuild.base.files import FileRefusedError, read_file
from mmbuild.base.json_reader import parse_json
from mmbuild.base.limits import STORE_TREE
from mmbuild.core.store.layout import Store
from mmbuild.core.store.record_fields import (
    COUNT,
    DIGEST,
    FLAG,
    INNER_PATH,
    LOCATION,
    or_null,
    require_fields,
)

Seen = tuple[int, int, int, int]
"""(inode, size, mtime_ns, ctime_ns) of a file."""


@dataclass(frozen=True, slots=True)
class ManifestEntry:
    """A file of an artifact.

    Attributes:
        path: Relative path with ``/`` separators.
        digest: BLAKE3 (hex) of the content.
        size: Bytes.
        executable: Whether its owner may execute it.
        ref: Absolute path of the user's file that this entry refers to; None for a file in the store.
    """

    path: str
    digest: str
    size: int
    executable: bool = False
    ref: str | None = None


@dataclass(frozen=True, slots=True)
class Tree:
    """The files of an artifact, sorted by path.

    Attributes:
        entries: The files.
        seen: Stat of each file when it was published in this store; empty if unknown. Not part of the artifact, only
            of the manifest in the store.
    """

    entries: tuple[ManifestEntry, ...]
    seen: tuple[Seen, ...] = field(default=(), compare=False, repr=False)

    @property
    def size(self) -> int:
        """Bytes in the store (referenced files are not in the store)."""
        return sum(entry.size for entry in self.entries if entry.ref is None)


_ENTRY = {
    "path": INNER_PATH,
    "digest": DIGEST,
    "size": COUNT,
    "executable": FLAG,
    "ref": or_null(LOCATION),
}


def make_tree(entries: Iterable[ManifestEntry]) -> Tree:
    """Return a tree of ``entries``, sorted and validated.

    Raises:
        ValueError: A path is absolute, leaves the tree, or occurs twice (also as a parent of another).
    """
    ordered = tuple(sorted(entries, key=lambda entry: entry.path))
    seen: set[str] = set()
    for entry in ordered:
        _check_path(entry.path)
        if entry.path in seen:
            raise ValueError(f"{entry.path!r} occurs twice")
        seen.add(entry.path)
    for entry in ordered:
        parent = os.path.dirname(entry.path)
        while parent:
            if parent in seen:
                raise ValueError(f"{parent!r} is a file and a directory")
            parent = os.path.dirname(parent)
    return Tree(ordered)


def tree_json(tree: Tree) -> bytes:
    """Return the canonical JSON of a tree, without ``seen``."""
    return canonical_json({"tree": 1, "entries": [_entry_json(entry) for entry in tree.entries]})


def manifest_json(tree: Tree) -> bytes:
    """Return :func:`tree_json` with ``seen``: the manifest in the local store, never published."""
    entries = [_entry_json(entry) for entry in tree.entries]
    return canonical_json({"tree": 1, "entries": entries, "seen": [list(seen) for seen in tree.seen]})


def without_references(tree: Tree) -> Tree:
    """Return the tree with every file as content, none by reference."""
    return Tree(tuple(replace(entry, ref=None) for entry in tree.entries))


def tree_digest(tree: Tree) -> str:
    """Return the artifact's digest: BLAKE3 (hex) of :func:`tree_json` of :func:`without_references`.

    The path of a referenced file is not part of a result: users who build from the same bytes get the same digest.
    """
    from blake3 import blake3

    return blake3(tree_json(without_references(tree))).hexdigest()


def parse_manifest(text: bytes, name: str) -> Tree:
    """Parse the output of :func:`manifest_json` or :func:`tree_json`.

    Raises:
        MmbuildError: MM304, the text is damaged.
    """
    tree, seen = _parse(text, name)
    if type(seen) is not list or len(seen) != len(tree.entries):
        return tree
    if not all(type(item) is list and len(item) == 4 and all(type(n) is int for n in item) for item in seen):
        return tree  # without valid stats, the files are read again
    return replace(tree, seen=tuple((ino, size, mtime, ctime) for ino, size, mtime, ctime in seen))


def _damaged_manifest(name: str, reason: object) -> MmbuildError:
    """Return the error for a manifest that cannot be used."""
    return MmbuildError(
        f"the manifest of artifact `{name}` is damaged ({reason})",
        code="MM304",
        hint="run `mmbuild cache verify`, which removes it; the next apply builds it again",
    )


def _parse(text: bytes, name: str) -> tuple[Tree, Any]:
    try:
        data = parse_json(text, STORE_TREE)
        entries = data["entries"]
        if type(entries) is not list:
            raise ValueError("`entries` is not an array")
        return make_tree(ManifestEntry(**require_fields(item, _ENTRY)) for item in entries), data.get("seen")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _damaged_manifest(name, error) from error


def _entry_json(entry: ManifestEntry) -> dict[str, Any]:
    data: dict[str, Any] = {"path": entry.path, "digest": entry.digest, "size": entry.size}
    if entry.executable:
        data["executable"] = True
    if entry.ref is not None:
        data["ref"] = entry.ref
    return data


def _check_path(path: str) -> None:
    if not is_inner_path(path):
        raise ValueError(f"{path[:200]!r} is not a path inside an artifact")


def read_tree(store: Store, digest: str) -> Tree:
    """Read the files of an artifact from its manifest.

    Raises:
        MmbuildError: MM304, it is not in the store, or its manifest is damaged or belongs to another artifact.
    """
    try:
        text = read_file(store.manifest(digest), STORE_TREE)
    except FileNotFoundError as error:
        raise MmbuildError(
            f"artifact `{digest}` is not in the store `{store.root}`",
            code="MM304",
            hint="apply the recipe again to build what is missing",
        ) from error
    except (OSError, FileRefusedError) as error:
        raise _damaged_manifest(digest, error) from error
    tree = parse_manifest(text, digest)
    if tree_digest(tree) != digest:
        raise _damaged_manifest(digest, "it belongs to another artifact")
    return tree
