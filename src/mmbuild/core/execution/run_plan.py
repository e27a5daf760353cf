"""Runs a plan: one process per action, on this machine unless another executor is given."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmbuild.base.errors import MmbuildError
from mmbuild.core.execution.apply_state import ApplyState
from mmbuild.core.execution.build_dir import check_replaceable
from mmbuild.core.execution.events import Event, EventKind, Result, Sink
from mmbuild.core.execution.executor import Executor, Running
from mmbuild.core.execution.gpu_queue import GpuRequest
from mmbuild.core.execution.options import Options
from mmbuild.core.execution.ready_queue import (
    ReadyPool,
    SchedulerState,
    builds_to_restore,
    priorities,
    state_of,
)
from mmbuild.core.execution.rejected_build import discard_outdated
from mmbuild.core.execution.resources import Capacity, check_fits, grant
from mmbuild.core.execution.scheduler import Scheduler
from mmbuild.core.execution.staging import staging, sweep
from mmbuild.core.execution.worker_pool import start_workers
from mmbuild.core.graph.action import Action, Resources
from mmbuild.core.graph.keys import is_sound
from mmbuild.core.graph.plan import Plan, Verdict
from mmbuild.core.steps.registry import DIRECTORIES, StepSpec
from mmbuild.core.store.action_cache import load_cache
from mmbuild.core.store.locks import FileLock, shared_lock

__all__ = ["Local", "Options", "Result", "run_plan"]


@dataclass(frozen=True, slots=True)
class Local:
    """Executor that runs actions on this machine, forked from one process."""

    capacity: Capacity

    def check(self, plan: Plan, actions: Sequence[Action], options: Options) -> None:
        """See :func:`mmbuild.core.execution.resources.check_fits`."""
        check_fits(actions, self.capacity, plan.store.root, ignore_estimates=options.apply.ignore_estimates)

    def grant(self, action: Action) -> Resources:
        return grant(action.resources, self.capacity)

    def request_gpus(self, count: int, *, shared: bool = False) -> GpuRequest:
        return GpuRequest(self.capacity.gpus, count, shared)

    def running(self, place: Path, specs: Sequence[StepSpec], hold: int) -> AbstractContextManager[Running]:
        return start_workers(place, preload(specs), hold)


def run_plan(
    plan: Plan,
    *,
    specs: Mapping[str, StepSpec],
    options: Options,
    sink: Sink,
    executor: Executor | None = None,
) -> Result:
    """Execute ``plan``; without ``executor``, on this machine.

    Raises:
        MmbuildError: Nothing could start (MM203, MM305, MM312 to MM316, MM840 to MM844), or the disk is full
            (MM302). Failures of single actions are in the result.
        KeyboardInterrupt: After all workers have ended; finished work is kept.
    """
    started = time.monotonic()
    state = state_of(plan)
    executor = executor or Local(options.capacity)
    _check(plan, [planned.action for planned in state.waiting.values()], specs, options, executor)
    sink(Event(EventKind.PLAN, data=_counts(plan)))
    outcome = ApplyState(plan.store, state, sink, options.apply.paranoid)
    with shared_lock(plan.store) as hold:
        sweep(plan.store)
        discard_outdated(plan)
        for build in builds_to_restore(plan, state):
            outcome.install(build)
        if state.waiting:
            _build(plan, state, outcome, specs, options, hold, executor)
    result = outcome.result(time.monotonic() - started)
    sink(Event(EventKind.SUMMARY, data=_summary(result)))
    return result


def _build(
    plan: Plan,
    state: SchedulerState,
    outcome: ApplyState,
    specs: Mapping[str, StepSpec],
    options: Options,
    hold: FileLock,
    executor: Executor,
) -> None:
    """Run the actions without a result. ``hold`` keeps gc away until the last worker has ended."""
    actions = [planned.action for planned in state.waiting.values()]
    needed = list(dict.fromkeys(specs[action.step] for action in actions))
    pool = ReadyPool(executor.capacity, priorities(actions))
    cache = load_cache(plan.store)
    with staging(plan.store) as place, executor.running(place, needed, hold.descriptor) as running:
        Scheduler(
            plan.store,
            specs,
            options,
            cache,
            state,
            outcome,
            pool,
            executor,
            running,
            remote=plan.remote,
        ).run()


def _check(
    plan: Plan,
    actions: Sequence[Action],
    specs: Mapping[str, StepSpec],
    options: Options,
    executor: Executor,
) -> None:
    for action in actions:
        if action.step not in specs:
            raise MmbuildError(
                f"`{action.label}` needs the step `{action.step}`, which this mmbuild does not have",
                code="MM203",
                hint="that part of the recipe is not supported yet; see `mmbuild explain MM203`",
            )
        if not is_sound(action):
            raise MmbuildError(
                f"the plan is damaged: the key of `{action.label}` does not match its content",
                code="MM326",
                hint="plan again; if that does not help, remove the directory `plans` from the store",
            )
    for build in plan.builds:
        check_replaceable(plan.store, build.directory)
    executor.check(plan, actions, options)


def preload(specs: Iterable[StepSpec]) -> list[str]:
    """Return the modules for the fork server to import: light step modules first, so that actions start soon."""
    unique = list(dict.fromkeys(specs))
    entries = [spec.entry.partition(":")[0] for spec in unique]
    # Used to compare a model's directory with the plan again (mmbuild.core.execution.publish_check).
    sources = [DIRECTORIES] if any(spec.name == "download" for spec in unique) else []
    return list(dict.fromkeys([*sources, *entries, *(name for spec in unique for name in spec.preload)]))


def _counts(plan: Plan) -> dict[str, Any]:
    return {
        "hash": plan.hash,
        "run": plan.count(Verdict.RUN),
        "unknown": plan.count(Verdict.UNKNOWN),
        "restore": plan.count(Verdict.RESTORE),
        "up_to_date": plan.count(Verdict.UP_TO_DATE),
        "replaces": {build.recipe: build.replaces for build in plan.builds if build.replaces},
    }


def _summary(result: Result) -> dict[str, Any]:
    return {
        "ran": len(result.ran),
        "reused": len(result.reused),
        "failed": len(result.failed),
        "laid_out": [str(path) for path in result.laid_out],
        "seconds": round(result.seconds, 3),
    }
