"""Removes damaged results from the store before they are used, so that the same apply builds them again.

A large file of an engine directory can be a hard link to the store, so editing it damages the store. Such damage is
detected by stat before anything starts, and everything that ``mmbuild cache verify`` would remove is removed.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing

from mmbuild.base.errors import MmbuildError
from mmbuild.core.execution.events import Event, EventKind, Sink
from mmbuild.core.graph.plan import Plan, PlannedAction, Verdict, graphs_of
from mmbuild.core.graph.planner import make_plan
from mmbuild.core.store.action_cache import load_cache
from mmbuild.core.store.integrity import check_artifact
from mmbuild.core.store.stat_cache import StatCache
from mmbuild.core.store.verify import remove_damaged

_DAMAGED = ("MM304", "MM323")


def without_damage(plan: Plan, sink: Sink, *, paranoid: bool = False) -> Plan:
    """Return ``plan``, planned again if results that it uses are damaged.

    While another process uses the store nothing is removed; using the damaged result then fails with MM323.

    Args:
        plan: The plan to be executed.
        sink: Receives a warning for each damaged result.
        paranoid: Read every file that is used.
    """
    while damaged := _damaged(plan, paranoid):
        try:
            removed = remove_damaged(plan.store, [_digest(planned) for planned, _ in damaged])
        except MmbuildError as error:
            if error.code != "MM305":
                raise
            return plan
        for planned, problem in damaged:
            _report(planned, problem, sink)
        plan = _plan_again(plan)
        if not removed:
            return plan
    return plan


def _damaged(plan: Plan, paranoid: bool) -> list[tuple[PlannedAction, str]]:
    """Return the used results whose files differ from what was published, each with the problem."""
    damaged = []
    with closing(StatCache(plan.store)) as index:
        for planned in _used(plan):
            digest = _digest(planned)
            if plan.store.has(digest):
                try:
                    check_artifact(plan.store, digest, index, paranoid=paranoid)
                except MmbuildError as error:
                    if error.code in _DAMAGED:
                        damaged.append((planned, error.message))
    return damaged


def _used(plan: Plan) -> Iterable[PlannedAction]:
    """Return finished actions whose files are to be installed, or are inputs of actions that may run."""
    finished = {p.action.definition_key: p for p in plan.actions if p.record is not None}
    used = {key: None for key, planned in finished.items() if planned.verdict is Verdict.RESTORE}
    for planned in plan.actions:
        if planned.record is None:
            used.update(dict.fromkeys(planned.action.inputs.values()))
    return [finished[key] for key in used if key in finished]


def _digest(planned: PlannedAction) -> str:
    return planned.record.digest if planned.record is not None else ""


def _report(planned: PlannedAction, problem: str, sink: Sink) -> None:
    data = {
        "message": f"the result of `{planned.action.label}` is damaged: {problem}",
        "code": "MM327",
        "hint": "it was removed with everything built from it, and is built again now; "
        "`mmbuild cache verify` checks the rest of the store",
    }
    sink(Event(EventKind.WARNING, planned.action.label, data))


def _plan_again(plan: Plan) -> Plan:
    from mmbuild.core.graph.rebuild_reasons import reasons_from

    build_dir = plan.builds[0].directory.parent if plan.builds else plan.store.root
    cache = load_cache(plan.store)
    remote = plan.remote
    return make_plan(graphs_of(plan), plan.store, cache, build_dir, reasons_from(plan.store), lambda: remote)
