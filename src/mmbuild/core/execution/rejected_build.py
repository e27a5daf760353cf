"""``build/<recipe>.refused/``: an engine that is whole and that its last action would not have.

It is laid out like any engine, so that it can be asked, verified and compared, with what the refusing action wrote
before it failed. The engine directory itself is left as it was; a later success removes what was put aside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmbuild.core.execution.build_dir import install_build, our_files, remove_leftovers
from mmbuild.core.execution.failures import Failed
from mmbuild.core.graph.action import Action
from mmbuild.core.graph.plan import Build
from mmbuild.core.store.action_cache import Record
from mmbuild.core.store.atomic_files import discard, remove_tree
from mmbuild.core.store.layout import Store
from mmbuild.core.store.locks import wait_lock
from mmbuild.core.store.roots import root_path, scan_files

_REPORTS = frozenset({"report.json", "report.html"})
"""What ``mmbuild verify`` writes beside an engine: no reason to keep one."""


def rejected_path(directory: Path) -> Path:
    """Where a refused engine of ``directory`` goes."""
    return directory.with_name(f"{directory.name}.refused")


def is_rejected_by(build: Build, action: Action, records: Mapping[str, Record]) -> bool:
    """Whether ``action``, which failed, judged a whole engine: nothing needs its result but the directory."""
    place = _place(build, action)
    return bool(place) and all(
        key in records for key in build.targets.values() if key != action.definition_key
    )


def keep_rejected(
    store: Store,
    build: Build,
    actions: Sequence[Action],
    records: Mapping[str, Record],
    host: Mapping[str, Any],
    *,
    refused: Action,
    why: Failed,
    left: Path,
) -> Path:
    """Lay the engine of ``build`` out beside its directory; returns where.

    Args:
        store: Where the artifacts are.
        build: Whose engine.
        actions: All actions of the build, producers first.
        records: Results by definition key; of all but ``refused``.
        host: Facts of this machine, for the manifest.
        refused: The action that failed.
        why: Its failure.
        left: Directory with what it wrote; may be empty or absent.

    Raises:
        MmbuildError: As :func:`mmbuild.core.execution.build_dir.install_build`.
        OSError: What the action wrote cannot be copied.
    """
    known = {label: key for label, key in build.actions.items() if key in records}
    targets = {place: key for place, key in build.targets.items() if key in records}
    directory = rejected_path(build.directory)
    data = {
        "label": refused.label,
        "step": refused.step,
        "params": dict(refused.params),
        "message": why.message,
        "code": why.code,
    }
    try:
        install_build(
            store,
            replace(build, directory=directory, targets=targets, actions=known, intact=False),
            [action for action in actions if action.definition_key in records],
            records,
            host,
            refused=[data],
            left={_place(build, refused): left} if left.is_dir() else {},
        )
    except BaseException:
        remove_leftovers(directory)
        raise
    return directory


def discard_rejected(store: Store, directory: Path) -> None:
    """Remove what was put aside of ``directory``, unless somebody put a file of their own there."""
    aside = rejected_path(directory)
    if not aside.is_dir():
        return
    with wait_lock(store.lock(root_path(store, aside).stem), f"the lock of `{aside}`"):
        remove_leftovers(aside)
        ours = our_files(store, aside)
        if ours is None or set(scan_files(aside)) - ours - _REPORTS:
            return
        remove_tree(aside)
        discard(root_path(store, aside))


def _place(build: Build, action: Action) -> str:
    """Where the result would go; empty where it is the engine itself, or nothing of it goes there."""
    return next((place for place, key in build.targets.items() if key == action.definition_key), "")
