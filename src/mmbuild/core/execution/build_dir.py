"""``build/<recipe>/``: the assembled engine, installed from the store and replaced atomically."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mmbuild._version import __version__
from mmbuild.base.errors import MmbuildError
from mmbuild.base.files import FileRefusedError, read_object
from mmbuild.base.limits import ENGINE_MANIFEST
from mmbuild.core.graph.action import Action
from mmbuild.core.graph.plan import Build
from mmbuild.core.store.action_cache import Record
from mmbuild.core.store.atomic_files import discard
from mmbuild.core.store.build_check import added_files, record_files
from mmbuild.core.store.build_names import UNFINISHED
from mmbuild.core.store.disk_errors import FULL_BUILD_DIR, disk_errors
from mmbuild.core.store.hashing import hash_file
from mmbuild.core.store.integrity import check_inputs
from mmbuild.core.store.layout import Store
from mmbuild.core.store.locks import wait_lock
from mmbuild.core.store.manifest import read_tree
from mmbuild.core.store.materialize import materialize
from mmbuild.core.store.named_builds import (
    MANIFEST,
    Laid,
    Root,
    before,
    read_root,
    root_path,
    scan_files,
    write_root,
)
from mmbuild.core.store.record_fields import INNER_PATH, list_of

SCHEMA = 1
REPORTS = frozenset({"report.json", "report.html"})
"""Files that ``mmbuild verify`` adds to an engine directory. They are about the engine that was there."""
_NAMES = list_of(INNER_PATH)
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def check_replaceable(store: Store, directory: Path) -> None:
    """Refuse a directory that mmbuild did not create, and one whose parent is not a directory.

    Raises:
        MmbuildError: MM315.
    """
    parent = directory.parent
    if os.path.lexists(parent) and not parent.is_dir():
        detail = f", a link to `{os.readlink(parent)}`," if parent.is_symlink() else ""
        raise MmbuildError(
            f"`{parent}`{detail} is not a directory",
            code="MM315",
            hint="move it, or give another `--build-dir`",
        )
    if not os.path.lexists(directory) or our_files(store, directory) is not None:
        return
    raise MmbuildError(
        f"`{directory}` exists and was not created by mmbuild",
        code="MM315",
        hint="move it, rename the recipe, or give another `--build-dir`",
    )


def install_build(
    store: Store,
    build: Build,
    actions: Sequence[Action],
    records: Mapping[str, Record],
    host: Mapping[str, Any],
    *,
    refused: Sequence[Mapping[str, Any]] = (),
    outputs: Mapping[str, Path] = MappingProxyType({}),
    paranoid: bool = False,
) -> None:
    """Install the engine directory of ``build`` and record it as a named build.

    Args:
        store: Store with the artifacts.
        build: The engine directory and its targets.
        actions: All actions of the build, producers first.
        records: Their results by definition key.
        host: Facts about this machine, for the manifest.
        refused: Actions that rejected this engine, for the manifest.
        outputs: Partial outputs of those actions, by path in the directory; copied.
        paranoid: Read every file of the artifacts first, even if its stat is unchanged.

    Raises:
        MmbuildError: MM301 or MM302, the directory cannot be written; MM304, an artifact is missing; MM319 or MM323,
            a file of an artifact changed; MM315, see :func:`check_replaceable`.
    """
    directory = build.directory
    targets = {place: records[key].digest for place, key in build.targets.items()}
    if paranoid:  # before taking the lock, which others may be waiting for
        check_inputs(store, targets.values(), paranoid=True)
    lock = store.lock(root_path(store, directory).stem)
    with disk_errors(directory, FULL_BUILD_DIR), wait_lock(lock, f"the lock of `{directory}`"):
        check_replaceable(store, directory)
        directory.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(directory)
        fresh = directory.with_name(f".{directory.name}{UNFINISHED}{os.getpid()}")
        for place, digest in targets.items():
            materialize(store, digest, fresh / place)
        for place, source in outputs.items():
            shutil.copytree(source, fresh / place, symlinks=True)
        files = _files(store, fresh, targets)
        data = {"refused": list(refused)} if refused else {}
        manifest = {
            **_manifest_of(build, actions, records, host),
            "engine": targets[""],
            **data,
            "files": files,
        }
        _carry_over(store, directory, fresh, targets)
        (fresh / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        _replace_directory(fresh, directory)
        digests = {name: file["blake3"] for name, file in files.items()}
        stats = record_files(store, directory, [*files, MANIFEST], digests)
        write_root(store, _root(store, build, records, targets, stats))


def _files(store: Store, directory: Path, targets: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Return size and BLAKE3 of every installed file by path; files that are not from artifacts are hashed."""
    known = {
        f"{place}/{entry.path}" if place else entry.path: {"size": entry.size, "blake3": entry.digest}
        for place, digest in targets.items()
        for entry in read_tree(store, digest).entries
    }
    return {name: known.get(name) or _hashed(directory / name) for name in sorted(scan_files(directory))}


def _hashed(path: Path) -> dict[str, Any]:
    return {"size": path.stat().st_size, "blake3": hash_file(path)}


def _manifest_of(
    build: Build, actions: Sequence[Action], records: Mapping[str, Record], host: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what the engine was built from. Not part of any key."""
    return {
        "schema": SCHEMA,
        "made_by": {"mmbuild": __version__},
        "recipe": build.recipe,
        "recipe_file": build.file,
        "settings": dict(build.settings),
        "host": dict(host),
        "actions": [_action_facts(action, records[action.definition_key], records) for action in actions],
    }


def _action_facts(action: Action, record: Record, records: Mapping[str, Record]) -> dict[str, Any]:
    return {
        "label": action.label,
        "step": action.step,
        "version": action.version,
        "definition_key": action.definition_key,
        "action_key": record.key,
        "artifact": record.digest,
        "params": dict(action.params),
        "target": dict(action.target),
        "toolchain": dict(action.toolchain),
        "sources": dict(action.sources),
        "locators": dict(action.locators),
        "inputs": {name: records[key].digest for name, key in action.inputs.items()},
        "seconds": record.seconds,
        "peak_memory": record.memory,
        "built_at": record.at,
        "built_on": record.host,
    }


def _carry_over(store: Store, directory: Path, fresh: Path, targets: Mapping[str, str]) -> None:
    """Keep files that users put into the engine directory, such as answers; reports only of the same engine."""
    ours = our_files(store, directory)
    if ours is None:
        return
    root = read_root(store, directory)
    if root is None or dict(root.targets) != dict(targets):
        ours |= REPORTS
    existing, installed = scan_files(directory), scan_files(fresh)
    misplaced = frozenset(added_files({**existing, **installed}, installed))
    for name in existing:
        target = _free_path(fresh, name, name in misplaced)
        if name not in ours and target is not None:
            target.parent.mkdir(parents=True, exist_ok=True)
            (directory / name).rename(target)


def _free_path(fresh: Path, name: str, misplaced: bool) -> Path | None:
    """Return where a user's file goes in the new directory; None if the new engine has a file with that name.

    A file that is in a directory that engines load from, or that replaced one of our files, moves to a top-level
    directory with `~` appended to the name: nothing is loaded from there.
    """
    parts = name.split("/")
    target = fresh.joinpath(f"{parts[0]}~", *parts[1:]) if misplaced else fresh / name
    for count in range(1, len(parts)):
        parent = fresh.joinpath(*parts[:count])
        if os.path.lexists(parent) and not _is_directory(parent):
            target = fresh.joinpath(f"{parts[count - 1]}~", *parts[count:])
            break
    return None if os.path.lexists(target) else target


def _is_directory(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _root(
    store: Store,
    build: Build,
    records: Mapping[str, Record],
    targets: Mapping[str, str],
    files: Mapping[str, Laid],
) -> Root:
    return Root(
        directory=str(build.directory),
        recipe=build.recipe,
        targets=targets,
        definitions=dict(build.actions),
        artifacts={label: records[key].digest for label, key in build.actions.items()},
        files=files,
        settings=dict(build.settings),
        at=time.time(),
        previous=before(read_root(store, build.directory), build.actions),
    )


def _replace_directory(fresh: Path, target: Path) -> None:
    """Replace ``target`` with ``fresh``; readers see either the old directory or the new one."""
    if not os.path.lexists(target):
        fresh.rename(target)
        return
    if not _exchange(fresh, target):
        old = fresh.with_name(fresh.name + "-old")
        target.rename(old)
        fresh.rename(target)
        fresh = old
    discard(fresh)  # the old engine directory may have been replaced by a link


def _exchange(first: Path, second: Path) -> bool:
    """Swap two directories atomically (renameat2(2)); return False if the file system does not support it."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    status = rename(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE)
    return bool(status == 0)


def remove_leftovers(directory: Path) -> None:
    """Remove what a killed process left next to the engine directory. The caller holds its lock."""
    for path in directory.parent.glob(f".{directory.name}{UNFINISHED}*"):
        discard(path)


def our_files(store: Store, directory: Path) -> frozenset[str] | None:
    """Return the files in ``directory`` that mmbuild installed; None if mmbuild did not create the directory."""
    try:
        if not any(os.scandir(directory)):
            return frozenset()
        reported = read_object(directory / MANIFEST, ENGINE_MANIFEST)
        if "mmbuild" in reported["made_by"] and _NAMES.holds(names := list(reported["files"])):
            return frozenset([MANIFEST, *names])
    except NotADirectoryError:
        return None
    except (OSError, ValueError, TypeError, KeyError, FileRefusedError):
        pass  # the manifest was changed, but the store may have a record of the directory
    root = read_root(store, directory)
    return frozenset(root.files) if root is not None and root.files else None
