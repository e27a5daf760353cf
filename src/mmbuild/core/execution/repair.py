"""Results whose files changed in the store are removed before they are used, so that the same apply makes them again.

An edit of a large file of an engine directory is an edit of the store where that file is a hard link. Such damage is
found by stat before anything starts, and what ``mmbuild cache verify`` would remove for it goes.
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
    """``plan``, made again where results that it uses are damaged.

    While another process uses the store nothing is removed; the use of what is damaged then fails with MM323.

    Args:
        plan: What is about to be done.
        sink: Told of each damaged result.
        paranoid: Read every file that is used.
    """
    while damaged := _damaged(plan, paranoid):
        try:
            removed = remove_damaged(plan.store, [_digest(planned) for planned, _ in damaged])
        except MmbuildError as error:
            if error.code != "MM305":
                raise
            return plan
        for planned, why in damaged:
            _report(planned, why, sink)
        plan = _again(plan)
        if not removed:
            return plan
    return plan


def _damaged(plan: Plan, paranoid: bool) -> list[tuple[PlannedAction, str]]:
    """Results whose files are used and are not what was published, with what is wrong."""
    found = []
    with closing(StatCache(plan.store)) as index:
        for planned in _used(plan):
            digest = _digest(planned)
            if plan.store.has(digest):
                try:
                    check_artifact(plan.store, digest, index, paranoid=paranoid)
                except MmbuildError as error:
                    if error.code in _DAMAGED:
                        found.append((planned, error.message))
    return found


def _used(plan: Plan) -> Iterable[PlannedAction]:
    """Finished actions whose files are laid out, or are inputs of what may run."""
    finished = {p.action.definition_key: p for p in plan.actions if p.record is not None}
    used = {key: None for key, planned in finished.items() if planned.verdict is Verdict.RESTORE}
    for planned in plan.actions:
        if planned.record is None:
            used.update(dict.fromkeys(planned.action.inputs.values()))
    return [finished[key] for key in used if key in finished]


def _digest(planned: PlannedAction) -> str:
    return planned.record.digest if planned.record is not None else ""


def _report(planned: PlannedAction, why: str, sink: Sink) -> None:
    data = {
        "message": f"the result of `{planned.action.label}` is damaged: {why}",
        "code": "MM327",
        "hint": "it was removed with everything built from it, and is built again now; "
        "`mmbuild cache verify` checks the rest of the store",
    }
    sink(Event(EventKind.WARNING, planned.action.label, data))


def _again(plan: Plan) -> Plan:
    from mmbuild.core.graph.rebuild_reasons import reasons_from

    place = plan.builds[0].directory.parent if plan.builds else plan.store.root
    cache = load_cache(plan.store)
    remote = plan.remote
    return make_plan(graphs_of(plan), plan.store, cache, place, reasons_from(plan.store), lambda: remote)
