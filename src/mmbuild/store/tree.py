"""Artifacts as data: a sorted list of entries, and the digest that names it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from mmbuild.canonical import canonical_json
from mmbuild.errors import MmbuildError


@dataclass(frozen=True, slots=True)
class Entry:
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
    """An artifact's files in the order of their paths."""

    entries: tuple[Entry, ...]

    @property
    def size(self) -> int:
        """Bytes in the store (referenced files lie elsewhere)."""
        return sum(entry.size for entry in self.entries if entry.ref is None)


def make_tree(entries: Iterable[Entry]) -> Tree:
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


def without_references(tree: Tree) -> Tree:
    """The same files with the same bytes, wherever any of them lie."""
    return Tree(tuple(replace(entry, ref=None) for entry in tree.entries))


def tree_digest(tree: Tree) -> str:
    """The artifact's digest: BLAKE3, hex, of :func:`tree_json` of :func:`without_references`.

    Where a referenced file lies is no part of a result: what two people build from the same bytes has one name.
    """
    from blake3 import blake3

    return blake3(tree_json(without_references(tree))).hexdigest()


def parse_tree(text: bytes, name: str) -> Tree:
    """Read what :func:`tree_json` wrote.

    Raises:
        MmbuildError: MM304 the text is damaged.
    """
    try:
        data = json.loads(text)
        return make_tree(Entry(**item) for item in data["entries"])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise MmbuildError(
            f"the manifest of artifact `{name}` is damaged ({error})",
            code="MM304",
            hint="run `mmbuild cache verify`, which removes it; the next apply makes it again",
        ) from error


def _entry_json(entry: Entry) -> dict[str, Any]:
    data: dict[str, Any] = {"path": entry.path, "digest": entry.digest, "size": entry.size}
    if entry.executable:
        data["executable"] = True
    if entry.ref is not None:
        data["ref"] = entry.ref
    return data


def _check_path(path: str) -> None:
    parts = path.split("/")
    if not path or path.startswith("/") or any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"{path!r} is no path inside an artifact")
