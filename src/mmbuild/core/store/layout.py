"""The layout of a store, and opening one.

::

    VERSION                    version number of this layout
    objects/ab/<blake3>[x]     file contents, read-only; x: the executable variant
    trees/<artifact>/          an artifact as a directory of hard links to objects
    manifests/<artifact>.json  canonical JSON of its entries; exists only if the artifact is complete
    definitions/<key>.json     content of a definition key, to explain rebuilds
    journal.jsonl              the action cache: one line per finished action
    history.jsonl              one line per apply that had work to do
    roots/<id>.json            named builds, which gc keeps
    plans/<id>.json            validated plans, by everything they depend on
    stat.db                    digests of user files by their stat
    logs/<action key>.log      output of each action
    logs/index.jsonl           which action wrote which log, and when
    remote/                    cached facts about shared stores, and partial pulls
    locks/, staging/           used by running builds
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from mmbuild.base.errors import MmbuildError
from mmbuild.base.files import FileRefusedError, read_file
from mmbuild.core.store.atomic_files import write_whole
from mmbuild.core.store.disk_errors import disk_errors
from mmbuild.core.store.ownership import check_layout, require_directory

VERSION = "1"
_DIRECTORIES = (
    "objects",
    "trees",
    "manifests",
    "definitions",
    "roots",
    "plans",
    "logs",
    "locks",
    "staging",
    "remote",
)
_FILES = ("journal.jsonl", "history.jsonl", "stat.db", "stat.db-journal", "in-use")
_VERSION_BYTES = 64


@dataclass(frozen=True, slots=True)
class Store:
    """The paths in a store. ``root`` is absolute."""

    root: Path

    @property
    def journal(self) -> Path:
        return self.root / "journal.jsonl"

    @property
    def objects(self) -> Path:
        return self.root / "objects"

    @property
    def trees(self) -> Path:
        return self.root / "trees"

    @property
    def staging(self) -> Path:
        return self.root / "staging"

    def object(self, digest: str, executable: bool = False) -> Path:
        return self.root / "objects" / digest[:2] / (digest + "x" * executable)

    def tree(self, digest: str) -> Path:
        return self.root / "trees" / digest

    def manifest(self, digest: str) -> Path:
        return self.root / "manifests" / f"{digest}.json"

    def definition(self, key: str) -> Path:
        return self.root / "definitions" / f"{key}.json"

    def log(self, key: str) -> Path:
        return self.root / "logs" / f"{key}.log"

    def lock(self, name: str) -> Path:
        return self.root / "locks" / name

    def has(self, digest: str) -> bool:
        """Return whether the complete artifact is in the store (its manifest is published last and removed first).

        A power failure can leave an empty manifest, whose content had not reached the disk.
        """
        try:
            return os.stat(f"{self.root}/manifests/{digest}.json").st_size > 0
        except OSError:
            return False


def default_root() -> Path:
    """Return ``$MMBUILD_STORE``, or ``$XDG_CACHE_HOME/mmbuild/store``, or ``~/.cache/mmbuild/store``."""
    if stated := os.environ.get("MMBUILD_STORE"):
        return Path(stated).expanduser().resolve()
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(cache).resolve() / "mmbuild" / "store"


def default_problem() -> MmbuildError | None:
    """Return the MM301 error if the default store cannot be written, else None. Does not open the store.

    Creates its directory, empty, if it is missing.
    """
    try:
        root = default_root()
        root.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError, ValueError) as error:
        return _unusable("the default store", error)
    return None if os.access(root, os.W_OK | os.X_OK) else _not_writable(root)


def open_store(root: Path | str | None = None) -> Store:
    """Open the store at ``root``, creating an empty one if it does not exist.

    Raises:
        MmbuildError: MM301, it cannot be written; MM303, it is not a store or has another version;
            MM302, the disk is full; MM320 or MM321, part of it is not safe to use
            (:mod:`mmbuild.core.store.ownership`).
    """
    try:
        store = Store(Path(root).expanduser().resolve() if root else default_root())
        _open(store)
    except (OSError, RuntimeError, ValueError) as error:  # no home, a loop of links, a name that is too long
        raise _unusable(f"`{root}`" if root else "the default store", error) from error
    return store


def existing_store(root: Path | None = None) -> Store:
    """Open the store at ``root`` for a command about its content; None is the default store, which may be new.

    Raises:
        MmbuildError: MM303, there is no store at ``root``; and as :func:`open_store`.
    """
    if root is not None and not root.expanduser().exists():
        raise MmbuildError(
            f"there is no store at `{root}`",
            code="MM303",
            hint="check the path; `mmbuild apply --store DIRECTORY` creates a store",
        )
    return open_store(root)


def _unusable(what: str, error: Exception) -> MmbuildError:
    return MmbuildError(
        f"{what} cannot be used as a store: {error}",
        code="MM301",
        hint="use a directory that you can write to with `--store` or MMBUILD_STORE",
    )


def _open(store: Store) -> None:
    version = _read_version(store)
    if version is None:
        _create(store)
        version = _read_version(store)
    if version is None or not version.isdigit():
        raise _not_a_store(store.root)
    if version != VERSION:
        raise MmbuildError(
            f"the store `{store.root}` has layout {version!r}, but this mmbuild supports {VERSION!r}",
            code="MM303",
            hint="use the mmbuild that created it, or give another store with `--store`",
        )
    if not os.access(store.root, os.W_OK | os.X_OK):
        raise _not_writable(store.root)
    check_layout(store.root, _DIRECTORIES, _FILES)


def _read_version(store: Store) -> str | None:
    try:
        return read_file(store.root / "VERSION", _VERSION_BYTES).decode("ascii").strip()
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise _not_writable(store.root) from error
    except (NotADirectoryError, UnicodeDecodeError, FileRefusedError) as error:
        raise _not_a_store(store.root) from error


def _create(store: Store) -> None:
    if store.root.exists() and (not store.root.is_dir() or _contains_other_files(store.root)):
        if _read_version(store) is not None:  # another process has created it just now
            return
        raise _not_a_store(store.root)
    with disk_errors(store.root):
        store.root.mkdir(0o775, parents=True, exist_ok=True)
        for name in _DIRECTORIES:
            require_directory(store.root / name)
        # Written last and atomically: a directory with a VERSION is a complete store.
        write_whole(store.root / "VERSION", f"{VERSION}\n".encode())


def _contains_other_files(root: Path) -> bool:
    try:
        names = os.listdir(root)
    except PermissionError as error:
        raise _not_writable(root) from error
    return any(name not in _DIRECTORIES and not name.startswith(".VERSION") for name in names)


def _not_a_store(root: Path) -> MmbuildError:
    if all((root / name).is_dir() for name in ("objects", "trees", "manifests")):
        return MmbuildError(
            f"`{root}` looks like an mmbuild store whose file `VERSION` is missing or damaged",
            code="MM303",
            hint=f"if this mmbuild created it, run `rm -f {root}/VERSION && echo {VERSION} > {root}/VERSION`, then "
            "`mmbuild cache verify`; or give another store with `--store`",
        )
    return MmbuildError(
        f"`{root}` is not an mmbuild store: it contains other files",
        code="MM303",
        hint="give an empty or new directory with `--store`",
    )


def _not_writable(root: Path) -> MmbuildError:
    reason = f"belongs to {_owner(root)} and cannot be written by this user"
    return MmbuildError(
        f"the store `{root}` {'is on a read-only file system' if _read_only(root) else reason}",
        code="MM301",
        hint="use a store that you can write to with `--store` or MMBUILD_STORE",
    )


def _read_only(path: Path) -> bool:
    try:
        return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    except OSError:
        return False


def _owner(path: Path) -> str:
    import pwd

    try:
        uid = path.stat().st_uid
        return f"user `{pwd.getpwuid(uid).pw_name}`"
    except KeyError:
        return f"user {uid}"
    except OSError:
        return "another user"
