"""Displays an apply on standard error: a live display on a terminal, plain lines otherwise."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from mmbuild.base.formatting import size_text
from mmbuild.base.repeating import repeating
from mmbuild.base.terminal_text import one_line, raw
from mmbuild.core.execution.events import Event, EventKind, Sink
from mmbuild.core.execution.running_actions import ApplyProgress, after, lines, still_line
from mmbuild.core.execution.time_left import time_left
from mmbuild.core.graph.plan import Plan, Verdict

_TICK_SECONDS = 1.0
_SILENT_SECONDS = 30.0
"""Time without a line about a running action after which a log gets one."""
_UNWRITABLE = (OSError, ValueError, AttributeError)
"""Errors of a standard error that is full, closed or missing."""


@contextmanager
def display(plan: Plan, *, live: bool = True) -> Iterator[Sink]:
    """Provide a sink that displays events; plain lines if ``live`` is False or there is no terminal."""
    if live and sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        with _live(plan) as sink:
            yield lenient(sink)
        return
    plain = PlainLines(plan)
    with repeating(plain.tick, _TICK_SECONDS):
        yield lenient(plain)


def lenient(sink: Sink) -> Sink:
    """Wrap ``sink`` to ignore write errors: a closed or full standard error must not stop a build."""

    def show(event: Event) -> None:
        with suppress(*_UNWRITABLE):
            sink(event)

    return show


class PlainLines:
    """Prints a line when an action starts and when it ends, and every 30 seconds between; suitable for CI logs."""

    def __init__(self, plan: Plan, clock: Callable[[], float] = time.time) -> None:
        total = sum(p.verdict in (Verdict.RUN, Verdict.UNKNOWN) for p in plan.actions)
        self._clock = clock
        self._state = ApplyProgress(total, clock())
        self._printed: dict[str, float] = {}
        self._lock = threading.Lock()  # results are also published by other threads, which report it

    def __call__(self, event: Event) -> None:
        with self._lock:
            self._state = after(self._state, event)
            line = _first_line(event)
            if line:
                self._printed[event.label] = event.at
                self._print(line)

    def tick(self) -> None:
        """Print a line for each running action without one for 30 seconds; errors of standard error are ignored."""
        now = self._clock()
        with self._lock, suppress(*_UNWRITABLE):
            for label, action in self._state.running.items():
                if now - self._printed.get(label, action.started) >= _SILENT_SECONDS:
                    self._printed[label] = now
                    self._print(f"still  {one_line(still_line(action, now))}")

    def _print(self, line: str) -> None:
        print(f"[{self._state.ended}/{self._state.total}] {line}", file=sys.stderr, flush=True)


def _first_line(event: Event) -> str:
    """Return the first line of :func:`_event_line`."""
    return one_line(_event_line(event).partition("\n")[0])


def _event_line(event: Event) -> str:
    """Format an event as one line; empty for events that only the live display shows.

    A failure is only named: its report at the end of the apply says everything once.
    """
    data = event.data
    if event.kind is EventKind.STARTED:
        return f"run    {event.label}: {data['reason']}"
    if event.kind is EventKind.FINISHED:
        return f"done   {event.label}: {cost(data)}"
    if event.kind is EventKind.REUSED:
        return f"reuse  {event.label}: {data['why']}"
    if event.kind is EventKind.WAITING:
        return f"wait   {event.label}: {data['why']}"
    if event.kind is EventKind.FAILED:
        return f"FAILED {event.label} [{data['code']}]"
    if event.kind is EventKind.PULLING:
        return f"pull   {event.label}: {data['reason']}"
    if event.kind is EventKind.PULLED and not data["why"]:
        return f"done   {event.label}: pulled in {data['seconds']:.1f} s"
    if event.kind is EventKind.PUSHED:
        return f"push   {event.label}: {data['outcome']}, {data['carried'] / 1e6:.1f} MB"
    if event.kind is EventKind.WARNING:
        return f"warning: {data['message']} [{data['code']}]"
    if event.kind is EventKind.LAID_OUT:
        return f"engine {event.label}: {data['directory']}"
    return ""


def cost(data: Any) -> str:
    """Format time, memory and size of a finished action."""
    return f"{data['seconds']:.1f} s, peak {size_text(data['memory'])}, output {size_text(data['size'])}"


@contextmanager
def _live(plan: Plan) -> Iterator[Sink]:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    # rich keeps dim and bold under NO_COLOR, but users who set it expect plain text.
    plain_text = bool(os.environ.get("NO_COLOR"))
    console = Console(file=raw(sys.stderr), color_system=None if plain_text else "auto")
    total = sum(planned.verdict in (Verdict.RUN, Verdict.UNKNOWN) for planned in plan.actions)
    state = ApplyProgress(total, time.time())
    estimate = time_left(plan)

    def shown() -> Text:
        """Return the running actions; finished ones scroll up above them."""
        width, height = console.size
        *actions, overall = lines(state, estimate, time.time(), width, height)
        text = Text("".join(f"{line}\n" for line in actions), no_wrap=True, overflow="crop", end="")
        return text.append(overall, "dim")

    lock = threading.Lock()  # results are also published by other threads, which report it
    with Live(get_renderable=shown, console=console, refresh_per_second=4, transient=True) as live:

        def sink(event: Event) -> None:
            nonlocal state
            with lock:
                state = after(state, event)
            line = _first_line(event)
            if line and event.kind not in (EventKind.STARTED, EventKind.PULLING):
                live.console.print(Text(line))

        yield sink
