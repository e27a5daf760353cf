"""The scheduling loop: starts ready actions that fit and handles worker messages until nothing is left.

Before it starts an action, it looks for the action's result again, because all inputs are known only now. This
settles actions that the plan left ``UNKNOWN``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mmbuild.core.execution.apply_state import ApplyState
from mmbuild.core.execution.events import EventKind
from mmbuild.core.execution.executor import Executor, Running
from mmbuild.core.execution.failures import explain_failure
from mmbuild.core.execution.gpu_queue import GpuRequest
from mmbuild.core.execution.job import Failure, WorkerJob, read_failure
from mmbuild.core.execution.options import Options
from mmbuild.core.execution.ready_queue import NOTHING, ReadyPool, SchedulerState
from mmbuild.core.graph.action import Action, Resources
from mmbuild.core.graph.keys import action_key, body_key
from mmbuild.core.graph.plan import PlannedAction, Verdict
from mmbuild.core.graph.rebuild_reasons import remember_definition
from mmbuild.core.graph.remote_lookup import RemoteLookup, rebind
from mmbuild.core.steps.registry import StepSpec
from mmbuild.core.store.action_cache import ActionCache, Record, append
from mmbuild.core.store.layout import Store
from mmbuild.core.store.locks import Patience, holder_text, try_lock

_POLL_SECONDS = 0.05
"""Interval for retrying a lock held by another process and for checking a pull."""

_FORWARDED = {
    "progress": (EventKind.PROGRESS, ("message", "fraction", "done", "total", "unit", "skipped")),
    "waiting": (EventKind.WAITING, ("why",)),
    "warning": (EventKind.WARNING, ("message", "code", "hint")),
}
"""Job messages that are forwarded as events, with their fields."""


@dataclass(frozen=True, slots=True)
class _Running:
    action: Action
    key: str
    directory: Path
    taken: Resources
    held: ExitStack


@dataclass(slots=True)
class Scheduler:
    """Runs the actions of one apply; ``pool`` holds the ready ones. See :meth:`run`."""

    store: Store
    specs: Mapping[str, StepSpec]
    options: Options
    cache: ActionCache
    state: SchedulerState
    outcome: ApplyState
    pool: ReadyPool
    executor: Executor
    workers: Running
    running: dict[str, _Running] = field(default_factory=dict)
    contended: dict[str, Patience] = field(default_factory=dict)
    gpu_requests: dict[str, GpuRequest] = field(default_factory=dict)
    pulls: set[str] = field(default_factory=set)
    failures: dict[str, Failure] = field(default_factory=dict)
    started: int = 0
    remote: RemoteLookup | None = None

    def run(self) -> None:
        """Start actions and receive messages until nothing runs and nothing more can start."""
        self._queue(self.state.ready())
        try:
            while True:
                self.pool.take(self._start)
                self.outcome.install_complete()  # while the new workers run
                if not self.running and not self.pool.waiting:
                    return
                polls = self.contended or self.pulls
                for message in self.workers.messages(_POLL_SECONDS if polls else None):
                    self._receive(message)
        finally:  # after an interrupt or error, this process may continue and apply again
            for running in self.running.values():
                running.held.close()
            self._withdraw()

    def _queue(self, keys: Iterable[str]) -> None:
        if self.outcome.failed and not self.options.apply.keep_going:
            return
        for key in keys:
            self.pool.add(key)

    def _start(self, key: str) -> Resources | None:
        """Start the action, unless its result exists by now. Called by the pool."""
        planned = self.state.waiting[key]
        requested = self.executor.grant(planned.action)
        if not self.pool.fits(requested):
            return None
        name = action_key(planned.action, self.state.digests(planned.action))
        if self._reuse(planned.action, name, _why_reused(planned)):
            return NOTHING
        if self.remote is not None:
            if self.remote.start_pull(name):
                self.pulls.add(key)
                return None
            self.pulls.discard(key)
            if self._adopt(planned.action, name, self.remote):
                return NOTHING
        lock = try_lock(self.store.lock(name))
        if lock is None:
            self._wait_for_other(planned.action, self.store.lock(name))
            return None
        with ExitStack() as held:
            held.callback(lock.remove)
            self.contended.pop(key, None)
            self.cache.refresh()
            if self._reuse(planned.action, name, "another process built it"):
                return NOTHING
            return self._launch(planned, name, requested, held)

    def _launch(
        self, planned: PlannedAction, name: str, resources: Resources, held: ExitStack
    ) -> Resources | None:
        """Start a worker, which takes over the locks in ``held``; return None if too few GPUs are free."""
        key = planned.action.definition_key
        request = self.gpu_requests.get(key) or self.executor.request_gpus(
            resources.gpus, shared=resources.gpu_shared
        )
        gpus = request.try_take()
        if gpus is None:
            self.gpu_requests[key] = request
            if self.contended.setdefault(key, Patience()).due():
                why = f"it needs {resources.gpus} GPUs, which others use or wait for that came first"
                self.outcome.report(EventKind.WAITING, planned.action, why=why)
            return None
        self.gpu_requests.pop(key, None)
        for gpu in gpus.values():
            held.callback(gpu.release)
        job = self._job(planned.action, name, resources, tuple(gpus))
        directory = self.workers.start(job, replace(planned.action, resources=resources))
        self.running[job.name] = _Running(planned.action, name, directory, resources, held.pop_all())
        remember_definition(self.store, planned.action)
        data = {"step": job.step, "reason": planned.reason, "cores": job.cores, "log": job.log}
        self.outcome.report(EventKind.STARTED, planned.action, **data, gpus=list(gpus))
        return resources

    def _wait_for_other(self, action: Action, lock: Path) -> None:
        """Report the process that holds the lock. There is no time limit: it may have hours of work left."""
        patience = self.contended.get(action.definition_key)
        if patience is None:
            self.contended[action.definition_key] = Patience()
            self.outcome.report(EventKind.WAITING, action, why=f"{holder_text(lock)} is building it")
        elif patience.due():
            why = f"{holder_text(lock)} is building it; waiting for {patience.seconds:.0f} s"
            self.outcome.report(EventKind.WAITING, action, why=why)

    def _reuse(self, action: Action, name: str, why: str) -> bool:
        record = self.cache.by_key.get(name)
        if record is None or not self.store.has(record.digest):
            return False
        if record.definition != action.definition_key:
            # The next plan then finds it by its definition, without computing an action key.
            record = replace(record, definition=action.definition_key, label=action.label)
            append(self.store, record)
            remember_definition(self.store, action)
        self.contended.pop(action.definition_key, None)
        self._queue(self.outcome.record_reused(action, record, why))
        return True

    def _adopt(self, action: Action, name: str, remote: RemoteLookup) -> bool:
        """Use the pulled result of an action; return False if there is none."""
        record = remote.pulled_record(name)
        if record is None or not self.store.has(record.digest):
            return False
        append(self.store, rebind(record, action, self.state.digests(action)))
        remember_definition(self.store, action)
        self.cache.refresh()
        return self._reuse(action, name, "the shared store has it")

    def _job(self, action: Action, name: str, granted: Resources, gpus: tuple[str, ...]) -> WorkerJob:
        self.started += 1
        return WorkerJob(
            name=f"{self.started}-{name[:16]}",
            label=action.label,
            step=action.step,
            entry=self.specs[action.step].entry,
            key=name,
            definition=action.definition_key,
            body=body_key(action),
            version=action.version,
            toolchain=action.toolchain,
            paranoid=self.options.apply.paranoid,
            params=action.params,
            target=action.target,
            inputs=self.state.digests(action),
            sources=action.sources,
            locators=action.locators,
            cores=granted.cores,
            gpus=gpus,
            store=str(self.store.root),
            log=str(self.store.log(name)),
            preload=self.specs[action.step].preload,
        )

    def _receive(self, message: Mapping[str, Any]) -> None:
        running = self.running.get(message["job"])
        if running is None:  # the exit of a worker whose result is already here
            return
        if message["event"] in _FORWARDED:
            kind, fields = _FORWARDED[message["event"]]
            self.outcome.report(kind, running.action, **{name: message[name] for name in fields})
            return
        if message["event"] == "failed":  # its exit follows
            self.failures[message["job"]] = Failure(
                message["message"], message["code"], message["hint"], (), ""
            )
            return
        self._release(message["job"], running)
        if message["event"] == "done":
            if "record" in message:
                append(self.store, Record(**message["record"]))
            self.cache.refresh()
            self._queue(self.outcome.record_finished(running.action, self.cache.by_key[running.key]))
        else:
            running = replace(running, directory=Path(message.get("directory", running.directory)))
            failure = read_failure(running.directory) or self.failures.get(message["job"])
            self._fail(running, failure, message["status"])

    def _release(self, name: str, running: _Running) -> None:
        del self.running[name]
        self.pool.give_back(running.taken)
        running.held.close()

    def _fail(self, running: _Running, failure: Failure | None, status: int) -> None:
        action, log = running.action, self.store.log(running.key)
        failed = explain_failure(action.label, action.step, failure, status, log)
        self.outcome.record_failed(action, failed, running.directory / "work" / "out")
        if not self.options.apply.keep_going:
            self.pool.clear()
            self.contended.clear()
            self._withdraw()
            self.pulls.clear()

    def _withdraw(self) -> None:
        """Give up the places of actions that wait for GPUs."""
        for request in self.gpu_requests.values():
            request.close()
        self.gpu_requests.clear()


def _why_reused(planned: PlannedAction) -> str:
    """Why there is a result now that the plan did not know."""
    unknown = planned.verdict is Verdict.UNKNOWN
    return "its rebuilt inputs are identical" if unknown else "it has been built since the plan was made"
