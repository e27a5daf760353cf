"""Artifacts as data: a sorted list of entries, and the digest that names it."""

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
    """One file of an artifact.

    Attributes:
        path: Relative, ``/`` between parts.
        digest: BLAKE3, hex, of the bytes.
        size: Bytes.
        executable: Whether its owner may execute it.
        ref: Absolute path of the user's file that this entry stands for; None for a file of the store.
    """

    path: str
    digest: str
    size: int
    executable: bool = False
    ref: str | None = None


@dataclass(frozen=True, slots=True)
class Tree:
    """An artifact's files in the order of their paths.

    Attributes:
        entries: The files.
        seen: Of each, what stat(2) said when it was published here; empty where that is not known. It is no part of
            the artifact, only of the manifest that a store keeps.
    """

    entries: tuple[ManifestEntry, ...]
    seen: tuple[Seen, ...] = field(default=(), compare=False, repr=False)

    @property
    def size(self) -> int:
        """Bytes in the store (referenced files lie elsewhere)."""
        return sum(entry.size for entry in self.entries if entry.ref is None)


_ENTRY = {
    "path": INNER_PATH,
    "digest": DIGEST,
    "size": COUNT,
    "executable": FLAG,
    "ref": or_null(LOCATION),
}


def make_tree(entries: Iterable[ManifestEntry]) -> Tree:
    """Sort ``entries``.

    Raises:
        ValueError: a path is absolute, leaves the tree, or occurs twice (also as a parent of another).
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
    """The canonical JSON that a store keeps as the manifest."""
    return canonical_json({"tree": 1, "entries": [_entry_json(entry) for entry in tree.entries]})


def manifest_json(tree: Tree) -> bytes:
    """:func:`tree_json` with ``seen``: what this store keeps, and nobody else gets."""
    entries = [_entry_json(entry) for entry in tree.entries]
    return canonical_json({"tree": 1, "entries": entries, "seen": [list(seen) for seen in tree.seen]})


def without_references(tree: Tree) -> Tree:
    """The same files with the same bytes, wherever any of them lie."""
    return Tree(tuple(replace(entry, ref=None) for entry in tree.entries))


def tree_digest(tree: Tree) -> str:
    """The artifact's digest: BLAKE3, hex, of :func:`tree_json` of :func:`without_references`.

    Where a referenced file lies is no part of a result: what two people build from the same bytes has one name.
    """
    from blake3 import blake3

    return blake3(tree_json(without_references(tree))).hexdigest()


def parse_manifest(text: bytes, name: str) -> Tree:
    """Read what :func:`manifest_json` wrote, or :func:`tree_json`.

    Raises:
        MmbuildError: MM304 the text is damaged.
    """
    tree, seen = _parse(text, name)
    if type(seen) is not list or len(seen) != len(tree.entries):
        return tree
    if not all(type(item) is list and len(item) == 4 and all(type(n) is int for n in item) for item in seen):
        return tree  # whatever that is, the files are read again
    return replace(tree, seen=tuple((ino, size, mtime, ctime) for ino, size, mtime, ctime in seen))


def damaged_manifest(name: str, why: object) -> MmbuildError:
    """The error for a manifest that cannot be used."""
    return MmbuildError(
        f"the manifest of artifact `{name}` is damaged ({why})",
        code="MM304",
        hint="run `mmbuild cache verify`, which removes it; the next apply makes it again",
    )


def _parse(text: bytes, name: str) -> tuple[Tree, Any]:
    try:
        data = parse_json(text, STORE_TREE)
        entries = data["entries"]
        if type(entries) is not list:
            raise ValueError("`entries` is not an array")
        return make_tree(ManifestEntry(**require_fields(item, _ENTRY)) for item in entries), data.get("seen")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise damaged_manifest(name, error) from error


def _entry_json(entry: ManifestEntry) -> dict[str, Any]:
    data: dict[str, Any] = {"path": entry.path, "digest": entry.digest, "size": entry.size}
    if entry.executable:
        data["executable"] = True
    if entry.ref is not None:
        data["ref"] = entry.ref
    return data


def _check_path(path: str) -> None:
    if not is_inner_path(path):
        raise ValueError(f"{path[:200]!r} is no path inside an artifact")


def read_tree(store: Store, digest: str) -> Tree:
    """The files of an artifact.

    Raises:
        MmbuildError: MM304 it is not in the store, or its manifest is damaged, or that of another artifact.
    """
    try:
        text = read_file(store.manifest(digest), STORE_TREE)
    except FileNotFoundError as error:
        raise MmbuildError(
            f"artifact `{digest}` is not in the store `{store.root}`",
            code="MM304",
            hint="apply the recipe again; what is missing is built",
        ) from error
    except (OSError, FileRefusedError) as error:
        raise damaged_manifest(digest, error) from error
    tree = parse_manifest(text, digest)
    if tree_digest(tree) != digest:
        raise damaged_manifest(digest, "it is that of another artifact")
    return tree
