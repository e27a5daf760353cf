"""Notes in the store which action wrote which log, while an apply runs."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from mmbuild.base.errors import MmbuildError
from mmbuild.core.execution.events import Event, EventKind, Sink, nowhere
from mmbuild.core.graph.plan import Plan
from mmbuild.core.store.action_logs import (
    DONE,
    FAILED,
    INTERRUPTED,
    RUNNING,
    LoggedRun,
    append_run,
    process_start,
)
from mmbuild.core.store.layout import Store

if TYPE_CHECKING:
    from mmbuild.core.execution.events import Result

Apply = TypeVar("Apply", bound=Callable[..., Any])
"""A function that takes a plan first, and a sink, and returns a Result."""

_ENDS = {EventKind.FINISHED: DONE, EventKind.FAILED: FAILED}


def record_logs(apply: Apply) -> Apply:
    """Wrap ``apply`` so that ``mmbuild logs`` finds the logs of its actions, also if it is interrupted."""

    @wraps(apply)
    def recording(plan: Plan, *args: Any, sink: Sink = nowhere, **kwargs: Any) -> Result:
        notes = _LogNotes(plan.store)

        def noting(event: Event) -> None:
            notes.take(event)
            sink(event)

        try:
            result: Result = apply(plan, *args, sink=noting, **kwargs)
        finally:
            notes.close()
        return result

    return cast(Apply, recording)


class _LogNotes:
    """The lines of one apply in the index of logs. An index that cannot be written does not fail the apply."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._apply = f"{time.time_ns():x}-{os.getpid()}"
        self._running: dict[str, LoggedRun] = {}

    def take(self, event: Event) -> None:
        """Note a start or an end."""
        if event.kind is EventKind.STARTED:
            pid = os.getpid()
            key = Path(event.data["log"]).stem
            run = LoggedRun(
                self._apply, event.label, key, RUNNING, event.at, pid, process_start(pid), platform.node()
            )
            self._running[event.label] = run
            self._append(run)
        elif event.kind in _ENDS and event.label in self._running:
            self._end(self._running.pop(event.label), _ENDS[event.kind], event.at)

    def close(self) -> None:
        """Note that what still runs was interrupted."""
        while self._running:
            self._end(self._running.popitem()[1], INTERRUPTED, time.time())

    def _end(self, run: LoggedRun, status: str, at: float) -> None:
        self._append(LoggedRun(run.apply, run.label, run.key, status, at, run.pid, run.born, run.host))

    def _append(self, run: LoggedRun) -> None:
        with contextlib.suppress(MmbuildError, OSError):
            append_run(self._store, run)
