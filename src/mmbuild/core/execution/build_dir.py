"""``build/<recipe>/``: the assembled engine, laid out from the store and replaced in one go."""

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
from mmbuild.core.store.disk_errors import disk_errors
from mmbuild.core.store.hashing import hash_file
from mmbuild.core.store.integrity import check_inputs
from mmbuild.core.store.layout import Store
from mmbuild.core.store.locks import wait_lock
from mmbuild.core.store.manifest import read_tree
from mmbuild.core.store.materialize import materialize
from mmbuild.core.store.record_fields import INNER_PATH, list_of
from mmbuild.core.store.roots import Laid, Root, before, read_root, root_path, scan_files, write_root

MANIFEST = "manifest.json"
SCHEMA = 1
_NAMES = list_of(INNER_PATH)
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def check_replaceable(store: Store, directory: Path) -> None:
    """Refuse to replace a directory that mmbuild did not make, and one that nothing can be put into.

    Raises:
        MmbuildError: MM315.
    """
    place = directory.parent
    if os.path.lexists(place) and not place.is_dir():
        what = f", a link to `{os.readlink(place)}`," if place.is_symlink() else ""
        raise MmbuildError(
            f"`{place}`{what} is not a directory",
            code="MM315",
            hint="move it away, or give another `--build-dir`",
        )
    if not os.path.lexists(directory) or our_files(store, directory) is not None:
        return
    raise MmbuildError(
        f"`{directory}` exists and was not made by mmbuild",
        code="MM315",
        hint="move it away, rename the recipe, or give another `--build-dir`",
    )


def install_build(
    store: Store,
    build: Build,
    actions: Sequence[Action],
    records: Mapping[str, Record],
    host: Mapping[str, Any],
    *,
    refused: Sequence[Mapping[str, Any]] = (),
    left: Mapping[str, Path] = MappingProxyType({}),
    paranoid: bool = False,
) -> None:
    """Fill the engine directory of ``build`` and record it as a named build.

    Args:
        store: Where the artifacts are.
        build: What goes where.
        actions: All actions of the build, producers first.
        records: Their results by definition key.
        host: Facts of this machine, for the manifest.
        refused: For the manifest, which actions would not have this engine.
        left: What those wrote before they failed, by place in the directory; copied.
        paranoid: Read every file of the artifacts first, whatever its stat.

    Raises:
        MmbuildError: MM301, MM302 it cannot be written, MM304 an artifact is missing, MM319, MM323 a file of one
            changed, MM315 see :func:`check_replaceable`.
    """
    directory = build.directory
    targets = {place: records[key].digest for place, key in build.targets.items()}
    what = f"the lock of `{directory}`"
    if paranoid:  # before the lock, for which others may wait
        check_inputs(store, targets.values(), paranoid=True)
    with disk_errors(directory), wait_lock(store.lock(root_path(store, directory).stem), what):
        check_replaceable(store, directory)
        directory.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(directory)
        fresh = directory.with_name(f".{directory.name}.mmbuild-{os.getpid()}")
        for place, digest in targets.items():
            materialize(store, digest, fresh / place)
        for place, source in left.items():
            shutil.copytree(source, fresh / place, symlinks=True)
        files = _files(store, fresh, targets)
        data = {"refused": list(refused)} if refused else {}
        manifest = {**manifest_of(build, actions, records, host), **data, "files": files}
        _carry_over(store, directory, fresh)
        (fresh / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        replace_directory(fresh, directory)
        digests = {name: file["blake3"] for name, file in files.items()}
        stats = record_files(store, directory, [*files, MANIFEST], digests)
        write_root(store, _root(store, build, records, targets, stats))


def _files(store: Store, directory: Path, targets: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Size and BLAKE3 of every file laid out, by path: of artifacts as their trees say, of others by hashing."""
    known = {
        f"{place}/{entry.path}" if place else entry.path: {"size": entry.size, "blake3": entry.digest}
        for place, digest in targets.items()
        for entry in read_tree(store, digest).entries
    }
    return {name: known.get(name) or _hashed(directory / name) for name in sorted(scan_files(directory))}


def _hashed(path: Path) -> dict[str, Any]:
    return {"size": path.stat().st_size, "blake3": hash_file(path)}


def manifest_of(
    build: Build, actions: Sequence[Action], records: Mapping[str, Record], host: Mapping[str, Any]
) -> dict[str, Any]:
    """What the engine was made from: no part of any key."""
    return {
        "schema": SCHEMA,
        "made_by": {"mmbuild": __version__},
        "recipe": build.recipe,
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


def _carry_over(store: Store, directory: Path, fresh: Path) -> None:
    """Files that somebody put next to ours stay: an engine directory is a fine place for answers."""
    ours = our_files(store, directory)
    if ours is None:
        return
    found, made = scan_files(directory), scan_files(fresh)
    misplaced = frozenset(added_files({**found, **made}, made))
    for name in found:
        target = _free_path(fresh, name, name in misplaced)
        if name not in ours and target is not None:
            target.parent.mkdir(parents=True, exist_ok=True)
            (directory / name).rename(target)


def _free_path(fresh: Path, name: str, misplaced: bool) -> Path | None:
    """Where a file that is not ours goes; None where the new engine has one of its name.

    What was put into a directory that is loaded from, or that took the place of one of our files, goes into one of
    that name with `~`, which is at the top: nothing is loaded from there.
    """
    parts = name.split("/")
    target = fresh.joinpath(f"{parts[0]}~", *parts[1:]) if misplaced else fresh / name
    for count in range(1, len(parts)):
        place = fresh.joinpath(*parts[:count])
        if os.path.lexists(place) and not _is_directory(place):
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


def replace_directory(fresh: Path, target: Path) -> None:
    """Put ``fresh`` in the place of ``target``; readers see the old one or the new one."""
    if not os.path.lexists(target):
        fresh.rename(target)
        return
    if not _exchange(fresh, target):
        aside = fresh.with_name(fresh.name + "-old")
        target.rename(aside)
        fresh.rename(target)
        fresh = aside
    discard(fresh)  # also a link that somebody made of the engine directory


def _exchange(one: Path, other: Path) -> bool:
    """Swap two directories atomically (renameat2(2)); False where the file system cannot."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    done = rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    return bool(done == 0)


def remove_leftovers(directory: Path) -> None:
    """What a kill left beside the engine directory; the caller holds its lock."""
    for path in directory.parent.glob(f".{directory.name}.mmbuild-*"):
        discard(path)


def our_files(store: Store, directory: Path) -> frozenset[str] | None:
    """The files in ``directory`` that mmbuild laid out there; None where the directory is not ours."""
    try:
        if not any(os.scandir(directory)):
            return frozenset()
        reported = read_object(directory / MANIFEST, ENGINE_MANIFEST)
        if "mmbuild" in reported["made_by"] and _NAMES.holds(names := list(reported["files"])):
            return frozenset([MANIFEST, *names])
    except NotADirectoryError:
        return None
    except (OSError, ValueError, TypeError, KeyError, FileRefusedError):
        pass  # the manifest was altered; the store may know the directory
    root = read_root(store, directory)
    return frozenset(root.files) if root is not None and root.files else None
