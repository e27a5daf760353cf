"""An apply with a shared store: what the plan wants of it is pulled first, and what is built is pushed beside."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from mmbuild.base.errors import MmbuildError
from mmbuild.base.progress import BYTES, Amount, as_data
from mmbuild.config.remote_errors import Notice, notice_of
from mmbuild.core.execution.events import Event, EventKind, Sink
from mmbuild.core.graph.plan import Plan, PlannedAction, Verdict, graphs_of
from mmbuild.core.graph.planner import make_plan
from mmbuild.core.graph.rebuild_reasons import reasons_from, remember_definition
from mmbuild.core.store.action_cache import ActionCache, append, load_cache
from mmbuild.core.store.locks import shared_lock
from mmbuild.team.remote_cache.pull import pull
from mmbuild.team.remote_cache.push import PushOutcome, check_writable, push
from mmbuild.team.remote_cache.remote_cache import SharedStore
from mmbuild.team.remote_cache.retrying_client import UnreachableError, describe

_PROGRESS_SECONDS = 0.2
_AT_ONCE = 3
"""Results that are published side by side: small ones are a handful of requests that wait for answers."""


@contextmanager
def sharing(plan: Plan, sink: Sink) -> Iterator[tuple[Plan, Sink]]:
    """Pull what ``plan`` needs from the shared store; yield the plan to run and the sink for its events.

    If a result cannot be pulled, the plan is made again without it. If the configuration says so, results that are
    reported to the sink are pushed; leaving the context waits for that.

    Raises:
        MmbuildError: MM302 the disk is full; MM305.
    """
    shared = plan.remote
    if not isinstance(shared, SharedStore):
        yield plan, sink
        return
    with shared_lock(plan.store):
        shared.calls.warn = partial(_report_warning, sink)
        plan = pull_planned(plan, shared, sink)
        with _pushing(shared, sink) as pushing:
            yield plan, pushing


def pull_planned(plan: Plan, shared: SharedStore, sink: Sink) -> Plan:
    """Pull until the plan requires nothing more, and return that plan."""
    while required := [planned for planned in plan.actions if planned.verdict is Verdict.PULL]:
        _pull(shared, required, sink)
        _record_remote_results(plan, shared)
        for planned in required:  # whatever went wrong: no result is pulled twice
            digest = planned.record.digest if planned.record is not None else ""
            if digest not in shared.bad and not plan.store.has(digest):
                shared.mark_corrupt(digest, "it did not come")
        plan = make_plan(
            graphs_of(plan),
            plan.store,
            load_cache(plan.store),
            plan.builds[0].directory.parent if plan.builds else plan.store.root,
            reasons_from(plan.store),
            lambda: shared,
        )
    _record_remote_results(plan, shared)
    return plan


def _pull(shared: SharedStore, required: list[PlannedAction], sink: Sink) -> None:
    """Pull once. Failures are recorded in ``shared``, so that the next plan does without these results."""
    labels = {planned.record.digest: planned for planned in required if planned.record is not None}
    for planned in labels.values():
        assert planned.record is not None
        data = {"reason": planned.reason, "size": planned.record.size}
        sink(Event(EventKind.PULLING, planned.action.label, data))
    last = 0.0

    def progress(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last > _PROGRESS_SECONDS:
            last = time.monotonic()
            data = as_data("", Amount(done, total, BYTES))
            for planned in labels.values():
                sink(Event(EventKind.PROGRESS, planned.action.label, data))

    begin = time.monotonic()
    failed = pull(shared, list(labels), progress)
    for digest, planned in labels.items():
        data = {
            "digest": digest,
            "seconds": round(time.monotonic() - begin, 3),
            "why": failed.get(digest, ""),
        }
        sink(Event(EventKind.PULLED, planned.action.label, data))


def _record_remote_results(plan: Plan, shared: SharedStore) -> None:
    """Write results found in the shared store into the journal, so that the next plan need not ask again."""
    cache = load_cache(plan.store)
    for planned in plan.actions:
        record = planned.record
        if record is None or record.digest in shared.bad or cache.by_key.get(record.key) == record:
            continue
        append(plan.store, record)
        remember_definition(plan.store, planned.action)


def _report_warning(sink: Sink, notice: Notice) -> None:
    data = {"message": notice.message, "code": notice.code, "hint": notice.hint}
    sink(Event(EventKind.WARNING, data=data))


@contextmanager
def _pushing(shared: SharedStore, sink: Sink) -> Iterator[Sink]:
    """Yield a sink that also publishes finished results, in its own thread."""
    if not shared.settings.push or shared.calls.down:
        yield sink
        return
    pusher = _Pusher(shared, sink, load_cache(shared.store))
    threads = [threading.Thread(target=pusher.work, daemon=True) for _ in range(_AT_ONCE)]
    for thread in threads:
        thread.start()

    def watching(event: Event) -> None:
        if event.kind is EventKind.FINISHED:
            pusher.finished.put((event.label, event.data["key"]))
        sink(event)

    try:
        yield watching
    except KeyboardInterrupt:  # nobody waits for a long upload then; `mmbuild cache push` brings the rest
        pusher.stopped = True
        raise
    finally:
        for _ in threads:
            pusher.finished.put(None)
        if not pusher.stopped:
            for thread in threads:
                thread.join()


@dataclass(slots=True)
class _Pusher:
    """Publishes results as they are finished."""

    shared: SharedStore
    sink: Sink
    cache: ActionCache
    finished: queue.SimpleQueue[tuple[str, str] | None] = field(default_factory=queue.SimpleQueue)
    stopped: bool = False
    _checked: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def work(self) -> None:
        """What a thread does until there is nothing more to publish."""
        while (item := self.finished.get()) is not None:
            if self.stopped or self.shared.calls.down:
                continue
            try:
                self._push(*item)
            except MmbuildError as error:
                if not self.shared.calls.down:
                    self.shared.warn(notice_of(error))
            except Exception as error:  # no failure of the build, whatever a file system raises
                self.shared.warn(
                    Notice(
                        f"`{item[0]}` was not published: {self.shared.settings.redact(describe(error))}",
                        "MM826",
                    )
                )

    def _push(self, label: str, key: str) -> None:
        with self._lock:
            if not self._checked:
                self._check()
            self.cache.refresh()
            record = self.cache.by_key[key]
        if self.stopped:
            return
        begin = time.monotonic()
        done = push(self.shared, record)
        if done.outcome is PushOutcome.ADOPTED:
            self.shared.warn(
                Notice(
                    f"another machine published another result of `{label}` first; that one stands",
                    "MM827",
                    "the next apply takes it",
                )
            )
        data: Mapping[str, object] = {
            "outcome": str(done.outcome),
            "carried": done.carried,
            "seconds": round(time.monotonic() - begin, 3),
        }
        self.sink(Event(EventKind.PUSHED, label, data))

    def _check(self) -> None:
        """Check that results can be published to the store; if not, nothing more is pushed."""
        try:
            check_writable(self.shared)
            self._checked = True
        except UnreachableError as error:
            self.shared.calls.give_up(error.message)
            raise
        except MmbuildError:
            self.stopped = True
            raise
