"""Applies in the store's history."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar, cast

from mmbuild.base.errors import MmbuildError
from mmbuild.core.graph.plan import Plan, Verdict

if TYPE_CHECKING:
    from mmbuild.core.execution.events import Result
    from mmbuild.core.store.action_cache import Record
    from mmbuild.core.store.history import HistoryEntry

Apply = TypeVar("Apply", bound=Callable[..., Any])
"""Takes a plan first, and returns a Result."""


def record_history(apply: Apply) -> Apply:
    """``apply``, which is then noted when it has given its result, or is interrupted.

    A plan without anything to do is not noted, nor what could not start. A history that cannot be written is no
    reason to fail.
    """

    @wraps(apply)
    def noting(plan: Plan, *args: Any, **kwargs: Any) -> Result:
        begin = time.time()
        try:
            result: Result = apply(plan, *args, **kwargs)
        except KeyboardInterrupt:
            _write(plan, _interrupted(plan, begin), begin, "interrupted")
            raise
        if plan.changes:
            _write(plan, result, begin, "done" if result.ok else "failed")
        return result

    return cast(Apply, noting)


def _write(plan: Plan, result: Result, begin: float, ended: str) -> None:
    from mmbuild.core.store.history import append_entry

    with contextlib.suppress(MmbuildError, OSError):
        append_entry(plan.store, _entry(plan, result, begin, ended))


def _entry(plan: Plan, result: Result, begin: float, ended: str) -> HistoryEntry:
    import platform

    from mmbuild._version import __version__
    from mmbuild.core.store.history import HistoryEntry

    worked = {*result.ran, *(failed.label for failed in result.failed)}
    there = [planned for planned in plan.actions if planned.verdict not in (Verdict.RUN, Verdict.UNKNOWN)]
    kept = {planned.action.label: planned for planned in there if planned.action.label not in worked}
    pulled = [planned for planned in kept.values() if planned.verdict is Verdict.PULL]
    cut_off = [label for label in result.reused if label not in kept]
    records = {label: planned.record for label, planned in kept.items()} | _last(plan, cut_off)
    return HistoryEntry(
        at=begin,
        seconds=round(time.time() - begin, 3),
        ended=ended,
        builds=tuple(build.recipe for build in plan.builds),
        ran=tuple((label, round(seconds, 3)) for label, seconds in result.times),
        failed=tuple((failed.label, failed.code) for failed in result.failed),
        cached=len(records) - len(pulled),
        pulled=len(pulled),
        saved=round(sum(record.seconds for record in records.values() if record is not None), 3),
        host=platform.node(),
        mmbuild=__version__,
    )


def _last(plan: Plan, labels: list[str]) -> dict[str, Record | None]:
    """Results by label, of actions whose inputs came out as before."""
    if not labels:
        return {}
    from mmbuild.core.store.action_cache import load_cache

    known = {record.label: record for record in load_cache(plan.store).by_key.values()}
    return {label: known.get(label) for label in labels}


def _interrupted(plan: Plan, begin: float) -> Result:
    """What had been finished, from the journal: nobody is left to tell."""
    from mmbuild.core.execution.events import Result
    from mmbuild.core.store.action_cache import load_cache

    labels = {planned.action.label for planned in plan.actions if planned.record is None}
    finished = [
        (record.label, record.seconds)
        for record in load_cache(plan.store).by_key.values()
        if record.at >= begin and record.label in labels
    ]
    return Result(ran=tuple(label for label, _ in finished), times=tuple(finished))
