"""Where things lie in a store, and opening one.

::

    VERSION            the number of this layout
    objects/ab/<blake3>[x]     file contents, read-only; x: the executable twin
    trees/<artifact>/          an artifact as a directory of hard links to objects
    manifests/<artifact>.json  canonical JSON of its entries; exists only when the artifact is whole
    definitions/<key>.json     what a definition key stands for, for reasons
    journal.jsonl              the action cache: one line for each finished action
    history.jsonl              one line for each apply that had something to do
    roots/<id>.json            named builds, which gc keeps
    plans/<id>.json            validated plans under everything that made them
    stat.db                    digests of user files by their stat
    logs/<action key>.log      what each action printed
    remote/                    what is known of shared stores, and pulls that are not complete
    locks/, staging/           of running builds
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
    """The paths of one store. ``root`` is absolute."""

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
        """Whether the artifact is here, whole (its manifest is published last and removed first).

        An empty manifest is what a power failure leaves of one that had not reached the disk yet.
        """
        try:
            return os.stat(f"{self.root}/manifests/{digest}.json").st_size > 0
        except OSError:
            return False


def default_root() -> Path:
    """``$MMBUILD_STORE``, or ``$XDG_CACHE_HOME/mmbuild/store``, or ``~/.cache/mmbuild/store``."""
    if stated := os.environ.get("MMBUILD_STORE"):
        return Path(stated).expanduser().resolve()
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(cache).resolve() / "mmbuild" / "store"


def default_problem() -> MmbuildError | None:
    """Why nothing could be built in the default store, found out without opening one: MM301, or None.

    Its directory is made where it is missing, empty as it is.
    """
    try:
        root = default_root()
        root.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError, ValueError) as error:
        return _unusable("the default store", error)
    return None if os.access(root, os.W_OK | os.X_OK) else _foreign(root)


def open_store(root: Path | str | None = None) -> Store:
    """Open the store at ``root``, making an empty one where there is none.

    Raises:
        MmbuildError: MM301 it may not be written, MM303 it is not a store or of another version,
            MM302 the disk is full, MM320 or MM321 a part of it is not safe to use
            (:mod:`mmbuild.core.store.ownership`).
    """
    try:
        store = Store(Path(root).expanduser().resolve() if root else default_root())
        _open(store)
    except (OSError, RuntimeError, ValueError) as error:  # no home, a loop of links, a name that is too long
        raise _unusable(f"`{root}`" if root else "the default store", error) from error
    return store


def _unusable(what: str, error: Exception) -> MmbuildError:
    return MmbuildError(
        f"{what} cannot be used as a store: {error}",
        code="MM301",
        hint="give a directory of your own with `--store` or MMBUILD_STORE",
    )


def _open(store: Store) -> None:
    version = _read_version(store)
    if version is None:
        _create(store)
        version = _read_version(store)
    if version is None or not version.isdigit():
        raise _no_store(store.root)
    if version != VERSION:
        raise MmbuildError(
            f"the store `{store.root}` has layout {version!r}, this mmbuild knows {VERSION!r}",
            code="MM303",
            hint="use the mmbuild that made it, or give another store with `--store`",
        )
    if not os.access(store.root, os.W_OK | os.X_OK):
        raise _foreign(store.root)
    check_layout(store.root, _DIRECTORIES, _FILES)


def _read_version(store: Store) -> str | None:
    try:
        return read_file(store.root / "VERSION", _VERSION_BYTES).decode("ascii").strip()
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise _foreign(store.root) from error
    except (NotADirectoryError, UnicodeDecodeError, FileRefusedError) as error:
        raise _no_store(store.root) from error


def _create(store: Store) -> None:
    if store.root.exists() and (not store.root.is_dir() or _holds_other_files(store.root)):
        if _read_version(store) is not None:  # another process has created it just now
            return
        raise _no_store(store.root)
    with disk_errors(store.root):
        store.root.mkdir(0o775, parents=True, exist_ok=True)
        for name in _DIRECTORIES:
            require_directory(store.root / name)
        # Last, and whole: a directory with a VERSION is a complete store.
        write_whole(store.root / "VERSION", f"{VERSION}\n".encode())


def _holds_other_files(root: Path) -> bool:
    try:
        names = os.listdir(root)
    except PermissionError as error:
        raise _foreign(root) from error
    return any(name not in _DIRECTORIES and not name.startswith(".VERSION") for name in names)


def _no_store(root: Path) -> MmbuildError:
    if all((root / name).is_dir() for name in ("objects", "trees", "manifests")):
        return MmbuildError(
            f"`{root}` looks like an mmbuild store whose file `VERSION` is missing or damaged",
            code="MM303",
            hint=f"`rm -f {root}/VERSION && echo {VERSION} > {root}/VERSION` if this mmbuild made it, then "
            "`mmbuild cache verify`; or give another store with `--store`",
        )
    return MmbuildError(
        f"`{root}` holds other files and is no mmbuild store",
        code="MM303",
        hint="give an empty or absent directory with `--store`",
    )


def _foreign(root: Path) -> MmbuildError:
    why = f"belongs to {_owner(root)} and may not be written by this user"
    return MmbuildError(
        f"the store `{root}` {'is on a read-only file system' if _read_only(root) else why}",
        code="MM301",
        hint="give a store of your own with `--store` or MMBUILD_STORE",
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
        return "somebody else"
