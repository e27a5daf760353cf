"""Named builds: what each build directory contains, so that gc keeps it and plans can say what changed."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmbuild.base.files import FileRefusedError, read_object
from mmbuild.base.limits import ENGINE_MANIFEST, STORE_NOTE
from mmbuild.core.store.atomic_files import write_whole
from mmbuild.core.store.disk_errors import disk_errors
from mmbuild.core.store.layout import Store
from mmbuild.core.store.record_fields import (
    COUNT,
    DIGEST,
    INNER_PATH,
    LOCATION,
    NUMBER,
    OBJECT,
    TEXT,
    FieldKind,
    either,
    mapping_of,
    require_fields,
)

if TYPE_CHECKING:
    from mmbuild.core.store.manifest import Seen

MANIFEST = "manifest.json"
"""File of an engine directory that says what it was built from."""

Laid = tuple[Any, ...]
"""(inode, size, mtime_ns, ctime_ns, content) of an installed file: see
:func:`mmbuild.core.store.build_check.record_files`.

Older roots have only the first three numbers."""


@dataclass(frozen=True, slots=True)
class Root:
    """A named build.

    Attributes:
        directory: Absolute path of the engine directory.
        recipe: Name of the variant.
        targets: Artifact digest by path in the directory (``""`` is the engine itself).
        definitions: Definition key by action label, of all actions of the build.
        artifacts: Artifact digest by action label.
        files: Installed files by path: :data:`Laid`.
        settings: Explicit recipe values by dotted key.
        at: Time of installation, seconds since the epoch; 0 if unknown.
        previous: ``definitions``, ``settings`` and ``at`` of the last build with different definitions.
        void: Why the files are not trusted; empty if no damage is known.
    """

    directory: str
    recipe: str
    targets: Mapping[str, str] = field(default_factory=dict)
    definitions: Mapping[str, str] = field(default_factory=dict)
    artifacts: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, Laid] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    at: float = 0.0
    previous: Mapping[str, Any] = field(default_factory=dict)
    void: str = ""


def _is_laid(value: Any) -> bool:
    """As :data:`Laid` says, in JSON. Written out, since an idle apply checks every file of every build."""
    if type(value) is not list or len(value) not in (3, 5):
        return False
    return all(map(COUNT.holds, value[:4])) and (len(value) == 3 or type(value[4]) is str)


_LAID = FieldKind("the stat and the content of a file", _is_laid)
_PLACE = either(FieldKind("the empty text", lambda value: value == ""), INNER_PATH)
_ROOT: Mapping[str, FieldKind] = {
    "directory": LOCATION,
    "recipe": TEXT,
    "targets": mapping_of(DIGEST, keys=_PLACE),
    "definitions": mapping_of(DIGEST),
    "artifacts": mapping_of(DIGEST),
    "files": mapping_of(_LAID, keys=INNER_PATH),
    "settings": OBJECT,
    "at": NUMBER,
    "previous": OBJECT,
    "void": TEXT,
}
_PREVIOUS: Mapping[str, FieldKind] = {"definitions": mapping_of(DIGEST), "settings": OBJECT, "at": NUMBER}


def root_path(store: Store, directory: Path | str) -> Path:
    """Return the path of a build directory's root file in the store."""
    import hashlib  # imported late: each forked worker would pay for OpenSSL's pages

    name = hashlib.blake2b(os.fsencode(directory), digest_size=16).hexdigest()
    return store.root / "roots" / f"{name}.json"


def read_root(store: Store, directory: Path | str) -> Root | None:
    """Return the record of ``directory``, or None if there is no readable one."""
    path = root_path(store, directory)
    root = _parse(path)
    return root if root is not None and root.directory == str(directory) else None


def recipe_file(directory: Path) -> str:
    """Return the recipe file in the manifest of an engine directory; empty if it is unknown."""
    try:
        file = read_object(directory / MANIFEST, ENGINE_MANIFEST).get("recipe_file")
    except (OSError, FileRefusedError):
        return ""
    return file if isinstance(file, str) else ""


def all_roots(store: Store) -> list[Root]:
    """Return every named build recorded in this store."""
    paths = sorted((store.root / "roots").glob("*.json"))
    roots = [(path, _parse(path)) for path in paths]
    return [root for path, root in roots if root is not None and root_path(store, root.directory) == path]


def write_root(store: Store, root: Root) -> None:
    """Record a named build."""
    with disk_errors(store.root):
        write_whole(root_path(store, root.directory), json.dumps(asdict(root)).encode(), owned=True)


def before(root: Root | None, definitions: Mapping[str, str]) -> Mapping[str, Any]:
    """Return ``previous`` for the build that replaces ``root`` and has ``definitions``."""
    if root is None:
        return {}
    if root.definitions == definitions:  # the same build installed again
        return root.previous
    return {"definitions": root.definitions, "settings": root.settings, "at": root.at}


def scan_files(directory: Path | str) -> dict[str, Seen]:
    """Return the stat of every file in ``directory`` and below, links not followed; empty if it does not exist."""
    stats: dict[str, Seen] = {}
    pending = [""]
    while pending:
        prefix = pending.pop()
        try:
            entries = os.scandir(os.path.join(directory, prefix))
        except (OSError, ValueError):
            continue
        with entries:
            for entry in entries:
                name = prefix + entry.name
                if entry.is_dir(follow_symlinks=False):
                    pending.append(name + "/")
                else:
                    with suppress(OSError):  # removed in the meantime
                        stats[name] = seen_of(entry.stat(follow_symlinks=False))
    return stats


def seen_of(status: os.stat_result) -> Seen:
    """Return the fields of a file's stat that are compared."""
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _parse(path: Path) -> Root | None:
    """Parse a root file; return None if it is damaged."""
    try:
        data = require_fields(read_object(path, STORE_NOTE), _ROOT)
        require_fields(data.get("previous", {}), _PREVIOUS)
        return Root(**{**data, "files": {name: tuple(item) for name, item in data.get("files", {}).items()}})
    except (OSError, ValueError, TypeError, FileRefusedError):
        return None
