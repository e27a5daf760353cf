"""``build/<recipe>.refused/``: a complete engine that failed its final check.

It is installed like any engine, so that it can be run, verified and compared, with the output of the failed check.
The engine directory itself is not changed; a later success removes the rejected engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmbuild.core.execution.build_dir import REPORTS, install_build, our_files, remove_leftovers
from mmbuild.core.execution.failures import Failed
from mmbuild.core.graph.action import Action
from mmbuild.core.graph.plan import Build, Plan, Verdict
from mmbuild.core.store.action_cache import Record
from mmbuild.core.store.atomic_files import discard, remove_tree
from mmbuild.core.store.build_names import REJECTED
from mmbuild.core.store.layout import Store
from mmbuild.core.store.locks import wait_lock
from mmbuild.core.store.named_builds import root_path, scan_files


def _rejected_path(directory: Path) -> Path:
    """Return the directory for a rejected engine of ``directory``."""
    return directory.with_name(f"{directory.name}{REJECTED}")


def is_rejected_by(build: Build, action: Action, records: Mapping[str, Record]) -> bool:
    """Return whether the failed ``action`` checked a complete engine: only the directory needs its result."""
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
    rejected_by: Action,
    failure: Failed,
    output: Path,
) -> Path:
    """Install the rejected engine of ``build`` next to its directory; return the path.

    Args:
        store: Store with the artifacts.
        build: The build of the engine.
        actions: All actions of the build, producers first.
        records: Results by definition key, of all actions except ``rejected_by``.
        host: Facts about this machine, for the manifest.
        rejected_by: The action that failed.
        failure: Its failure.
        output: Directory with its partial output; may be empty or missing.

    Raises:
        MmbuildError: As :func:`mmbuild.core.execution.build_dir.install_build`.
        OSError: The output cannot be copied.
    """
    known = {label: key for label, key in build.actions.items() if key in records}
    targets = {place: key for place, key in build.targets.items() if key in records}
    directory = _rejected_path(build.directory)
    data = {
        "label": rejected_by.label,
        "step": rejected_by.step,
        "params": dict(rejected_by.params),
        "message": failure.message,
        "code": failure.code,
    }
    try:
        install_build(
            store,
            replace(build, directory=directory, targets=targets, actions=known, intact=False),
            [action for action in actions if action.definition_key in records],
            records,
            host,
            refused=[data],
            outputs={_place(build, rejected_by): output} if output.is_dir() else {},
        )
    except BaseException:
        remove_leftovers(directory)
        raise
    return directory


def discard_rejected(store: Store, directory: Path) -> None:
    """Remove the rejected engine of ``directory``, unless a user added files to it."""
    rejected = _rejected_path(directory)
    if not rejected.is_dir():
        return
    with wait_lock(store.lock(root_path(store, rejected).stem), f"the lock of `{rejected}`"):
        remove_leftovers(rejected)
        ours = our_files(store, rejected)
        # Reports of `mmbuild verify` do not prevent its removal.
        if ours is None or set(scan_files(rejected)) - ours - REPORTS:
            return
        remove_tree(rejected)
        discard(root_path(store, rejected))


def discard_outdated(plan: Plan) -> None:
    """Remove the rejected engines of builds that are up to date: the recipe has what it describes again."""
    current = {p.action.definition_key for p in plan.actions if p.verdict is Verdict.UP_TO_DATE}
    for build in plan.builds:
        if current.issuperset(build.actions.values()):
            discard_rejected(plan.store, build.directory)


def _place(build: Build, action: Action) -> str:
    """Return the result's path in the engine directory; empty for the engine itself and for other actions."""
    return next((place for place, key in build.targets.items() if key == action.definition_key), "")
