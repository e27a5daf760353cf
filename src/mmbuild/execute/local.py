"""The local executor: runs a plan on this machine, one process for each action."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mmbuild.errors import MmbuildError
from mmbuild.execute.engine_dir import check_replaceable
from mmbuild.execute.events import Event, Kind, Sink
from mmbuild.execute.loop import Loop
from mmbuild.execute.outcome import Outcome
from mmbuild.execute.resources import check_fits
from mmbuild.execute.result import Options, Result
from mmbuild.execute.scheduler import Pool, priorities
from mmbuild.execute.staging import staging, sweep
from mmbuild.execute.state import State, builds_to_restore, state_of
from mmbuild.execute.workers import start_workers
from mmbuild.graph.action import Action
from mmbuild.graph.plan import Plan, Verdict
from mmbuild.steps.registry import StepSpec
from mmbuild.store.journal import load_cache
from mmbuild.store.locks import Lock, using

__all__ = ["Options", "Result", "run_plan"]


def run_plan(
    plan: Plan,
    *,
    specs: Mapping[str, StepSpec],
    options: Options,
    sink: Sink,
) -> Result:
    """Do what ``plan`` says.

    Raises:
        MmbuildError: nothing could start (MM203, MM305, MM312 to MM316), or the disk is full (MM302).
            Failures of single actions are in the result.
        KeyboardInterrupt: after all workers have ended; finished work is kept.
    """
    started = time.monotonic()
    state = state_of(plan)
    _check(plan, [planned.action for planned in state.waiting.values()], specs, options)
    sink(Event(Kind.PLAN, data=_counts(plan)))
    outcome = Outcome(plan.store, state, sink)
    with using(plan.store) as hold:
        sweep(plan.store)
        for build in builds_to_restore(plan, state):
            outcome.lay_out(build)
        if state.waiting:
            _build(plan, state, outcome, specs, options, hold)
    result = outcome.result(time.monotonic() - started)
    sink(Event(Kind.SUMMARY, data=_summary(result)))
    return result


def _build(
    plan: Plan, state: State, outcome: Outcome, specs: Mapping[str, StepSpec], options: Options, hold: Lock
) -> None:
    """Run what has no result. ``hold`` keeps gc away until the last worker has ended."""
    actions = [planned.action for planned in state.waiting.values()]
    preload = _preload(specs[action.step] for action in actions)
    pool = Pool(options.capacity, priorities(actions))
    cache = load_cache(plan.store)
    with staging(plan.store) as place, start_workers(place, preload, hold.descriptor) as workers:
        Loop(plan.store, specs, options, cache, state, outcome, pool, workers, elsewhere=plan.elsewhere).run()


def _check(plan: Plan, actions: Sequence[Action], specs: Mapping[str, StepSpec], options: Options) -> None:
    for action in actions:
        if action.step not in specs:
            raise MmbuildError(
                f"`{action.label}` needs the step `{action.step}`, which this mmbuild lacks",
                code="MM203",
                hint="that part of the recipe is not built yet; see `mmbuild explain MM203`",
            )
    for build in plan.builds:
        check_replaceable(plan.store, build.directory)
    check_fits(actions, options.capacity, plan.store.root, ignore_estimates=options.ignore_estimates)


def _preload(specs: Iterable[StepSpec]) -> list[str]:
    """What the fork server imports: light step modules first, so that the first action need not wait."""
    once = list(dict.fromkeys(specs))
    entries = [spec.entry.partition(":")[0] for spec in once]
    return list(dict.fromkeys([*entries, *(name for spec in once for name in spec.preload)]))


def _counts(plan: Plan) -> dict[str, Any]:
    return {
        "hash": plan.hash,
        "run": plan.count(Verdict.RUN),
        "unknown": plan.count(Verdict.UNKNOWN),
        "restore": plan.count(Verdict.RESTORE),
        "up_to_date": plan.count(Verdict.UP_TO_DATE),
    }


def _summary(result: Result) -> dict[str, Any]:
    return {
        "ran": len(result.ran),
        "reused": len(result.reused),
        "failed": len(result.failed),
        "laid_out": [str(path) for path in result.laid_out],
        "seconds": round(result.seconds, 3),
    }
