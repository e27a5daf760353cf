"""Named builds: what each build directory holds, so that gc keeps it and plans can say what changed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mmbuild.store.faults import disk_errors
from mmbuild.store.files import write_whole
from mmbuild.store.layout import Store


@dataclass(frozen=True, slots=True)
class Root:
    """One named build.

    Attributes:
        directory: Absolute path of the engine directory.
        recipe: Name of the variant.
        targets: Artifact digest by place in the directory (``""`` is the engine itself).
        definitions: Definition key by action label, of everything the build needed.
        artifacts: Artifact digest by action label.
        files: Stat of each file laid out: path -> [inode, size, mtime_ns].
        settings: What the recipe's files said, by dotted key.
        at: Seconds since the epoch when it was laid out; 0 where that was not noted.
        previous: ``definitions``, ``settings`` and ``at`` of what was there before, where other actions made that.
    """

    directory: str
    recipe: str
    targets: Mapping[str, str] = field(default_factory=dict)
    definitions: Mapping[str, str] = field(default_factory=dict)
    artifacts: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    at: float = 0.0
    previous: Mapping[str, Any] = field(default_factory=dict)


def root_path(store: Store, directory: Path | str) -> Path:
    """Where the root of a build directory lies in the store."""
    name = hashlib.blake2b(os.fsencode(directory), digest_size=16).hexdigest()
    return store.root / "roots" / f"{name}.json"


def read_root(store: Store, directory: Path | str) -> Root | None:
    """What ``directory`` was built from, or None where nothing (readable) is known."""
    return _parse(root_path(store, directory))


def all_roots(store: Store) -> list[Root]:
    """Every named build that this store knows."""
    paths = sorted((store.root / "roots").glob("*.json"))
    return [root for path in paths if (root := _parse(path)) is not None]


def write_root(store: Store, root: Root) -> None:
    """Record a named build."""
    with disk_errors(store.root):
        write_whole(root_path(store, root.directory), json.dumps(asdict(root)).encode())


def before(root: Root | None, definitions: Mapping[str, str]) -> Mapping[str, Any]:
    """``previous`` of what takes the place of ``root`` and is made by ``definitions``."""
    if root is None:
        return {}
    if root.definitions == definitions:  # laid out again
        return root.previous
    return {"definitions": root.definitions, "settings": root.settings, "at": root.at}


def intact(root: Root) -> bool:
    """Whether what was laid out is still there, unchanged (by stat; nothing is read). Other files may be."""
    found = scan_files(root.directory)
    return all(found.get(path) == tuple(stat) for path, stat in root.files.items())


def scan_files(directory: Path | str) -> dict[str, tuple[int, int, int]]:
    """Stat of every file below ``directory``, links not followed; empty where it does not exist."""
    found: dict[str, tuple[int, int, int]] = {}
    pending = [""]
    while pending:
        prefix = pending.pop()
        try:
            entries = os.scandir(os.path.join(directory, prefix))
        except OSError:
            continue
        with entries:
            for entry in entries:
                name = prefix + entry.name
                if entry.is_dir(follow_symlinks=False):
                    pending.append(name + "/")
                else:
                    info = entry.stat(follow_symlinks=False)
                    found[name] = (info.st_ino, info.st_size, info.st_mtime_ns)
    return found


def _parse(path: Path) -> Root | None:
    try:
        data: dict[str, Any] = json.loads(path.read_bytes())
        return Root(**data)
    except (OSError, ValueError, TypeError):
        return None
