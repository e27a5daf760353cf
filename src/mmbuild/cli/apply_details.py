"""What ``mmbuild apply -v`` adds: the store, results that it had, and log lines of running actions as they come."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmbuild.base.repeating import repeating
from mmbuild.base.terminal_text import one_line
from mmbuild.core.execution.events import Event, EventKind, Sink
from mmbuild.core.graph.plan import Plan, Verdict
from mmbuild.core.store.action_logs import LogReader

_POLL_SECONDS = 0.2
_EARLIER_SECONDS = 1.0
"""A log that was written this long before its action started is that of an earlier run, about to be replaced."""
_LONGEST_LINE = 10_000
_ENDS = (EventKind.FINISHED, EventKind.FAILED)


def starting_lines(plan: Plan) -> list[str]:
    """The store, and the results that it has of ``plan``."""
    reused = [planned for planned in plan.actions if planned.verdict is Verdict.UP_TO_DATE]
    return [
        f"store {plan.store.root}",
        *(f"cached {planned.action.label}: {planned.reason}" for planned in reused),
    ]


class LogLines:
    """Prints the log lines of running actions, each after the label of its action."""

    def __init__(self) -> None:
        self._readers: dict[str, LogReader] = {}
        self._partial: dict[str, str] = {}
        self._lock = threading.Lock()

    def take(self, event: Event) -> None:
        """Begin to read the log of an action that starts; print the rest of one that ends."""
        with self._lock:
            if event.kind is EventKind.STARTED:
                self._readers[event.label] = LogReader(Path(event.data["log"]), event.at - _EARLIER_SECONDS)
            elif event.kind in _ENDS and event.label in self._readers:
                self._print_new(event.label, self._readers.pop(event.label), rest=True)

    def poll(self) -> None:
        """Print the lines that were added to all logs."""
        with self._lock:
            for label, reader in self._readers.items():
                self._print_new(label, reader)

    def _print_new(self, label: str, reader: LogReader, *, rest: bool = False) -> None:
        for piece in reader.fresh():
            *lines, partial = (self._partial.pop(label, "") + piece).split("\n")
            self._partial[label] = partial[:_LONGEST_LINE]
            for line in lines:
                _print(label, line)
        if rest and (last := self._partial.pop(label, "")):
            _print(label, last)


def _print(label: str, line: str) -> None:
    print(f"  {label} | {one_line(line[:_LONGEST_LINE])}", file=sys.stderr, flush=True)


@contextmanager
def log_lines(sink: Sink) -> Iterator[Sink]:
    """Provide a sink that also prints log lines of running actions, every 0.2 s, until the block ends."""
    lines = LogLines()

    def both(event: Event) -> None:
        if event.kind is EventKind.STARTED:
            sink(event)
            lines.take(event)
        else:  # the lines of an action come before its end
            lines.take(event)
            sink(event)

    with repeating(lines.poll, _POLL_SECONDS):
        yield both
