"""The local executor: runs a plan on this machine, one process for each action."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mmbuild.errors import MmbuildError
from mmbuild.execute.engine_dir import check_replaceable, lay_out
from mmbuild.execute.environment import worker_environment
from mmbuild.execute.events import Event, Kind, Sink
from mmbuild.execute.failures import Failed, explain_failure
from mmbuild.execute.gpus import try_take
from mmbuild.execute.job import Job
from mmbuild.execute.resources import Capacity, check_fits, grant
from mmbuild.execute.scheduler import NOTHING, Pool, priorities
from mmbuild.execute.workers import Workers, start_workers
from mmbuild.graph.action import Action, Resources
from mmbuild.graph.keys import action_key, body_key
from mmbuild.graph.plan import Build, Plan, Planned, Verdict
from mmbuild.graph.reasons import remember_definition
from mmbuild.host import facts
from mmbuild.steps.registry import StepSpec
from mmbuild.store.files import remove_tree
from mmbuild.store.journal import ActionCache, Record, append, load_cache
from mmbuild.store.layout import Store
from mmbuild.store.locks import Lock, try_lock, using, wait_lock

_POLL_SECONDS = 0.05
"""How often a lock that another process holds is tried again."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to apply.

    Attributes:
        capacity: What the scheduler may hand out.
        keep_going: After a failure, still run what does not depend on it.
        ignore_estimates: Do not compare estimates of memory and disk with the machine.
    """

    capacity: Capacity
    keep_going: bool = False
    ignore_estimates: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """What an apply did.

    Attributes:
        ran: Labels of the actions that ran, in the order of their ends.
        reused: Labels of actions whose result turned out to be there.
        failed: What failed.
        laid_out: Engine directories that were filled anew.
        seconds: Wall time.
    """

    ran: tuple[str, ...] = ()
    reused: tuple[str, ...] = ()
    failed: tuple[Failed, ...] = ()
    laid_out: tuple[Path, ...] = ()
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return not self.failed


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
    store = plan.store
    todo = [p for p in plan.actions if p.verdict in (Verdict.RUN, Verdict.UNKNOWN)]
    _check(plan, todo, specs, store, options)
    sink(Event(Kind.PLAN, data=_counts(plan)))
    with using(store) as hold:
        run = _Run(plan, store, load_cache(store), specs, options, sink)
        _sweep(store)
        run.begin()
        if todo:
            preload = _preload(specs[p.action.step] for p in todo)
            with _staging(store) as staging, start_workers(staging, preload, hold.descriptor) as workers:
                run.loop(workers)
    result = run.result(time.monotonic() - started)
    sink(Event(Kind.SUMMARY, data=_summary(result)))
    return result


def _check(
    plan: Plan, todo: list[Planned], specs: Mapping[str, StepSpec], store: Store, options: Options
) -> None:
    for planned in todo:
        if planned.action.step not in specs:
            raise MmbuildError(
                f"`{planned.action.label}` needs the step `{planned.action.step}`, which this mmbuild lacks",
                code="MM203",
                hint="that part of the recipe is not built yet; see `mmbuild explain MM203`",
            )
    for build in plan.builds:
        check_replaceable(store, build.directory)
    actions = [planned.action for planned in todo]
    check_fits(actions, options.capacity, store.root, ignore_estimates=options.ignore_estimates)


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


def _sweep(store: Store) -> None:
    """Remove the staging that killed applies left."""
    with wait_lock(store.lock("staging")):
        for old in store.staging.iterdir():
            lock = try_lock(old / "lock") if old.is_dir() else None
            if lock is not None:
                remove_tree(old)
                lock.release()


@contextmanager
def _staging(store: Store) -> Iterator[Path]:
    """A directory for this apply's jobs; its lock tells others that it is in use."""
    with wait_lock(store.lock("staging")):  # nobody may sweep it before it is locked
        path = Path(tempfile.mkdtemp(prefix="apply-", dir=store.staging))
        lock = try_lock(path / "lock")
    try:
        yield path
    finally:
        remove_tree(path)
        if lock is not None:
            lock.release()


@dataclass(frozen=True, slots=True)
class _Running:
    planned: Planned
    key: str
    directory: Path
    taken: Resources
    locks: tuple[Lock, ...]
    started: float


@dataclass(slots=True)
class _Run:
    """The state of one apply."""

    plan: Plan
    store: Store
    cache: ActionCache
    specs: Mapping[str, StepSpec]
    options: Options
    sink: Sink
    done: dict[str, Record] = field(default_factory=dict)
    waiting: dict[str, Planned] = field(default_factory=dict)
    blocked: dict[str, int] = field(default_factory=dict)
    consumers: dict[str, list[str]] = field(default_factory=dict)
    running: dict[str, _Running] = field(default_factory=dict)
    contended: set[str] = field(default_factory=set)
    builds: dict[str, list[Build]] = field(default_factory=dict)
    missing: dict[str, int] = field(default_factory=dict)
    actions: dict[str, Action] = field(default_factory=dict)
    restored: dict[str, bool] = field(default_factory=dict)
    ran: list[str] = field(default_factory=list)
    reused: list[str] = field(default_factory=list)
    failed: list[Failed] = field(default_factory=list)
    laid_out: list[Path] = field(default_factory=list)
    host: Mapping[str, Any] = field(default_factory=dict)
    pool: Pool = field(init=False)

    def begin(self) -> None:
        """Take what is up to date, queue what is ready, lay out what is complete."""
        for planned in self.plan.actions:
            key = planned.action.definition_key
            self.actions[key] = planned.action
            self.restored[key] = planned.verdict is Verdict.RESTORE
            if planned.record is not None:
                self.done[key] = planned.record
            else:
                self.waiting[key] = planned
        self.pool = Pool(self.options.capacity, priorities([p.action for p in self.waiting.values()]))
        for key, planned in self.waiting.items():
            producers = {p for p in planned.action.inputs.values() if p in self.waiting}
            self.blocked[key] = len(producers)
            for producer in producers:
                self.consumers.setdefault(producer, []).append(key)
            if not producers:
                self.pool.add(key)
        for build in self.plan.builds:
            missing = [key for key in dict.fromkeys(build.actions.values()) if key in self.waiting]
            self.missing[build.recipe] = len(missing)
            for key in missing:
                self.builds.setdefault(key, []).append(build)
            if not missing and self._needs_layout(build):
                self._lay_out(build)

    def loop(self, workers: Workers) -> None:
        """Start and receive until nothing runs and nothing more can start."""
        while True:
            self.pool.take(lambda key: self._start(key, workers))
            if not self.running and not self.pool.waiting:
                return
            timeout = _POLL_SECONDS if self.contended else None
            for message in workers.messages(timeout):
                self._receive(message)

    def result(self, seconds: float) -> Result:
        return Result(tuple(self.ran), tuple(self.reused), tuple(self.failed), tuple(self.laid_out), seconds)

    def _needs_layout(self, build: Build) -> bool:
        return any(self.restored.get(key, False) for key in build.targets.values())

    def _start(self, key: str, workers: Workers) -> Resources | None:
        """For the pool: start the action, or find that its result is there."""
        planned = self.waiting[key]
        action = planned.action
        asked = grant(action.resources, self.options.capacity)
        if not self.pool.fits(asked):
            return None
        digests = {name: self.done[producer].digest for name, producer in action.inputs.items()}
        name = action_key(action, digests)
        if self._reuse(planned, name, "its inputs came out as before"):
            return NOTHING
        lock = try_lock(self.store.lock(name))
        if lock is None:
            self._wait_for_other(planned, key)
            return None
        self.contended.discard(key)
        self.cache.refresh()
        if self._reuse(planned, name, "another process built it"):
            lock.release()
            return NOTHING
        gpus = try_take(self.options.capacity.gpus, asked.gpus) if asked.gpus else {}
        if gpus is None:
            lock.release()
            self.contended.add(key)
            return None
        job = self._job(action, name, digests, asked, tuple(gpus))
        remember_definition(self.store, action)
        directory = workers.start(job)
        locks = (lock, *gpus.values())
        self.running[job.name] = _Running(planned, name, directory, asked, locks, time.monotonic())
        self._tell(
            Kind.STARTED, action, step=action.step, reason=planned.reason, cores=job.cores, log=job.log
        )
        return asked

    def _wait_for_other(self, planned: Planned, key: str) -> None:
        if key not in self.contended:
            self.contended.add(key)
            self._tell(Kind.WAITING, planned.action, why="another process builds the same")

    def _reuse(self, planned: Planned, name: str, why: str) -> bool:
        record = self.cache.by_key.get(name)
        if record is None or not self.store.has(record.digest):
            return False
        action = planned.action
        if record.definition != action.definition_key:
            # The next plan then finds it by its definition, without computing an action key.
            record = replace(record, definition=action.definition_key, label=action.label)
            append(self.store, record)
            remember_definition(self.store, action)
        self.contended.discard(action.definition_key)
        self.reused.append(action.label)
        self._tell(Kind.REUSED, action, digest=record.digest, why=why)
        self._complete(action.definition_key, record)
        return True

    def _job(
        self, action: Action, name: str, digests: Mapping[str, str], granted: Resources, gpus: tuple[str, ...]
    ) -> Job:
        return Job(
            name=f"{len(self.ran) + len(self.failed) + len(self.running)}-{name[:16]}",
            label=action.label,
            step=action.step,
            entry=self.specs[action.step].entry,
            key=name,
            definition=action.definition_key,
            body=body_key(action),
            params=action.params,
            target=action.target,
            inputs=digests,
            sources=action.sources,
            locators=action.locators,
            cores=granted.cores,
            gpus=gpus,
            store=str(self.store.root),
            log=str(self.store.log(name)),
            environment=worker_environment(granted.cores, gpus),
        )

    def _receive(self, message: Mapping[str, Any]) -> None:
        running = self.running.get(message["job"])
        if running is None:  # the exit of a worker whose result is already here
            return
        if message["event"] == "progress":
            told = {"message": message["message"], "fraction": message["fraction"]}
            self._tell(Kind.PROGRESS, running.planned.action, **told)
            return
        self._release(message["job"], running)
        if message["event"] == "done":
            self._finish(running, message["digest"])
        else:
            self._fail(running, message["status"])

    def _release(self, name: str, running: _Running) -> None:
        del self.running[name]
        self.pool.give_back(running.taken)
        for lock in running.locks:
            lock.release()

    def _finish(self, running: _Running, digest: str) -> None:
        self.cache.refresh()
        record = self.cache.by_key[running.key]
        action = running.planned.action
        self.ran.append(action.label)
        self._tell(
            Kind.FINISHED,
            action,
            digest=digest,
            seconds=record.seconds,
            memory=record.memory,
            size=record.size,
        )
        self._complete(action.definition_key, record)

    def _fail(self, running: _Running, status: int) -> None:
        action = running.planned.action
        failed = explain_failure(
            action.label, action.step, running.directory, status, self.store.log(running.key)
        )
        self.failed.append(failed)
        self._tell(
            Kind.FAILED, action, message=failed.message, code=failed.code, hint=failed.hint, log=failed.log
        )
        del self.waiting[action.definition_key]
        if not self.options.keep_going:
            self.pool.clear()
            self.contended.clear()

    def _complete(self, key: str, record: Record) -> None:
        """An action has its result: queue what waited for it, lay out what is now whole."""
        self.done[key] = record
        self.waiting.pop(key, None)
        for consumer in self.consumers.get(key, ()):
            self.blocked[consumer] -= 1
            if self.blocked[consumer] == 0 and (self.options.keep_going or not self.failed):
                self.pool.add(consumer)
        for build in self.builds.get(key, ()):
            self.missing[build.recipe] -= 1
            if self.missing[build.recipe] == 0:
                self._lay_out(build)

    def _lay_out(self, build: Build) -> None:
        actions = [self.actions[key] for key in build.actions.values()]
        lay_out(self.store, build, actions, self.done, self._facts())
        self.laid_out.append(build.directory)
        self.sink(Event(Kind.LAID_OUT, build.recipe, {"directory": str(build.directory)}))

    def _facts(self) -> Mapping[str, Any]:
        if not self.host:
            self.host = facts()
        return self.host

    def _tell(self, kind: Kind, action: Action, **data: Any) -> None:
        self.sink(Event(kind, action.label, data))
