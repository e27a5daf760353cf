"""Records applies in the store's history."""

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
"""A function that takes a plan first and returns a Result."""


def record_history(apply: Apply) -> Apply:
    """Wrap ``apply`` so that each run is recorded in the history, even when interrupted.

    Not recorded: a plan with nothing to do, and a run that could not start. A history that cannot be written does not
    fail the run.
    """

    @wraps(apply)
    def recording(plan: Plan, *args: Any, **kwargs: Any) -> Result:
        begin = time.time()
        try:
            result: Result = apply(plan, *args, **kwargs)
        except KeyboardInterrupt:
            _write(plan, _interrupted(plan, begin), begin, "interrupted")
            raise
        if plan.changes:
            _write(plan, result, begin, "done" if result.ok else "failed")
        return result

    return cast(Apply, recording)


def _write(plan: Plan, result: Result, begin: float, ended: str) -> None:
    from mmbuild.core.store.history import append_entry

    with contextlib.suppress(MmbuildError, OSError):
        append_entry(plan.store, _entry(plan, result, begin, ended))


def _entry(plan: Plan, result: Result, begin: float, ended: str) -> HistoryEntry:
    import platform

    from mmbuild._version import __version__
    from mmbuild.core.store.history import HistoryEntry

    executed = {*result.ran, *(failed.label for failed in result.failed)}
    known = [planned for planned in plan.actions if planned.verdict not in (Verdict.RUN, Verdict.UNKNOWN)]
    reused = {planned.action.label: planned for planned in known if planned.action.label not in executed}
    pulled = [planned for planned in reused.values() if planned.verdict is Verdict.PULL]
    cut_off = [label for label in result.reused if label not in reused]
    records = {label: planned.record for label, planned in reused.items()} | _last_records(plan, cut_off)
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


def _last_records(plan: Plan, labels: list[str]) -> dict[str, Record | None]:
    """Return the results by label of actions that were cut off early."""
    if not labels:
        return {}
    from mmbuild.core.store.action_cache import load_cache

    known = {record.label: record for record in load_cache(plan.store).by_key.values()}
    return {label: known.get(label) for label in labels}


def _interrupted(plan: Plan, begin: float) -> Result:
    """Return what had finished before the interruption, read from the journal."""
    from mmbuild.core.execution.events import Result
    from mmbuild.core.store.action_cache import load_cache

    labels = {planned.action.label for planned in plan.actions if planned.record is None}
    finished = [
        (record.label, record.seconds)
        for record in load_cache(plan.store).by_key.values()
        if record.at >= begin and record.label in labels
    ]
    return Result(ran=tuple(label for label, _ in finished), times=tuple(finished))
