"""Events of an apply, its options and its result."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmbuild.core.execution.failures import Failed

SCHEMA = 1
"""Version of the JSON form; raised when a field changes its meaning."""

_PROGRESS_SECONDS = 0.5
"""Least time between two events of progress of an action in :func:`thinned`."""


class EventKind(StrEnum):
    """Kinds of events with the fields of their ``data``."""

    PLAN = "plan"  # hash, run, restore, unknown, up_to_date: counts; replaces: recipe files
    WAITING = "waiting"  # why: another process builds the same action
    STARTED = "started"  # step, reason, cores, gpus, log
    PROGRESS = "progress"  # message, fraction (0 to 1), done, total, unit, skipped; null if unknown
    FINISHED = "finished"  # key, digest, seconds, memory (bytes), size (bytes)
    REUSED = "reused"  # digest, why: cut off early, or built by another process
    FAILED = "failed"  # message, hint, code, log, aside (directories of refused engines)
    LAID_OUT = "laid out"  # directory
    PULLING = "pulling"  # reason, size (bytes)
    PULLED = "pulled"  # digest, seconds, why: empty, or why it did not come
    PUSHED = "pushed"  # outcome, carried (bytes), seconds
    WARNING = "warning"  # message, code, hint: about the shared store, or a cluster's nodes
    SUMMARY = "summary"  # ran, reused, failed, seconds


@dataclass(frozen=True, slots=True)
class Event:
    """One event; ``label`` is the action or recipe it is about."""

    kind: EventKind
    label: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
    at: float = field(default_factory=time.time)

    def as_json(self) -> dict[str, Any]:
        """The ``--json`` form, one object a line."""
        return {"schema": SCHEMA, "event": str(self.kind), "at": self.at, "label": self.label, **self.data}


Sink = Callable[[Event], None]


def thinned(sink: Sink) -> Sink:
    """``sink`` without most progress: at most two events a second about each action, by their times."""
    last: dict[str, float] = {}

    def pass_on(event: Event) -> None:
        if event.kind is EventKind.PROGRESS:
            if event.at - last.get(event.label, -_PROGRESS_SECONDS) < _PROGRESS_SECONDS:
                return
            last[event.label] = event.at
        sink(event)

    return pass_on


def nowhere(event: Event) -> None:
    """A sink for callers that want no events."""


@dataclass(frozen=True, slots=True)
class Result:
    """What an apply did.

    Attributes:
        ran: Labels of the actions that ran, in the order of their ends.
        reused: Labels of actions whose result turned out to be there.
        failed: What failed.
        laid_out: Engine directories that were filled anew.
        seconds: Wall time.
        times: Seconds of each action that ran, by label.
    """

    ran: tuple[str, ...] = ()
    reused: tuple[str, ...] = ()
    failed: tuple[Failed, ...] = ()
    laid_out: tuple[Path, ...] = ()
    seconds: float = 0.0
    times: tuple[tuple[str, float], ...] = ()

    @property
    def ok(self) -> bool:
        return not self.failed
