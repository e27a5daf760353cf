"""Displays an apply on standard error: a live table on a terminal, plain lines otherwise."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from mmbuild.base.terminal_text import one_line, raw
from mmbuild.core.execution.events import Event, EventKind, Sink
from mmbuild.core.graph.plan import Plan, Verdict


@contextmanager
def display(plan: Plan, *, live: bool = True) -> Iterator[Sink]:
    """Provide a sink that displays events; plain lines if ``live`` is False or there is no terminal."""
    if live and sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        with _live(plan) as sink:
            yield lenient(sink)
    else:
        yield lenient(PlainLines(plan))


def lenient(sink: Sink) -> Sink:
    """Wrap ``sink`` to ignore write errors: a closed or full standard error must not stop a build."""

    def show(event: Event) -> None:
        with suppress(OSError, ValueError, AttributeError):
            sink(event)

    return show


class PlainLines:
    """Prints a line when an action starts and when it ends; suitable for CI logs."""

    def __init__(self, plan: Plan) -> None:
        self.total = sum(p.verdict in (Verdict.RUN, Verdict.UNKNOWN) for p in plan.actions)
        self.ended = 0

    def __call__(self, event: Event) -> None:
        if event.kind is EventKind.PLAN:  # actions that could not be pulled run
            self.total = event.data["run"] + event.data["unknown"]
        if event.kind in (EventKind.FINISHED, EventKind.REUSED, EventKind.FAILED):
            self.ended += 1
        line = _first_line(event)
        if line:
            print(f"[{self.ended}/{self.total}] {line}", file=sys.stderr, flush=True)


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
    return f"{data['seconds']:.1f} s, peak {data['memory'] / 1e6:.0f} MB, output {data['size'] / 1e6:.1f} MB"


@contextmanager
def _live(plan: Plan) -> Iterator[Sink]:
    import time

    from rich.console import Console
    from rich.live import Live
    from rich.markup import escape
    from rich.table import Table

    # rich keeps dim and bold under NO_COLOR, but users who set it expect plain text.
    plain_text = bool(os.environ.get("NO_COLOR"))
    console = Console(file=raw(sys.stderr), color_system=None if plain_text else "auto")
    started: dict[str, float] = {}
    messages: dict[str, str] = {}
    plain = PlainLines(plan)

    def table() -> Table:
        """Return the running actions; finished ones scroll up above the table."""
        rows = Table.grid(padding=(0, 2))
        for label, begin in started.items():
            rows.add_row(
                "  ▸",
                escape(one_line(label)),
                f"{time.time() - begin:.0f} s",
                escape(messages.get(label, "")),
            )
        rows.add_row(f"[dim]{plain.ended}/{plain.total}[/dim]", "", "", "")
        return rows

    with Live(get_renderable=table, console=console, refresh_per_second=4, transient=True) as live:

        def sink(event: Event) -> None:
            if event.kind in (EventKind.STARTED, EventKind.PULLING):
                started[event.label] = event.at
            elif event.kind is EventKind.PROGRESS:
                fraction = event.data.get("fraction")
                percent = f" {fraction:.0%}" if fraction is not None else ""
                messages[event.label] = one_line(f"{event.data['message']}{percent}")
            elif event.kind in (EventKind.FINISHED, EventKind.REUSED, EventKind.FAILED):
                plain.ended += 1
                started.pop(event.label, None)
            elif event.kind is EventKind.PULLED:
                started.pop(event.label, None)
            elif event.kind is EventKind.PLAN:
                plain(event)
            line = _first_line(event)
            if line and event.kind not in (EventKind.STARTED, EventKind.PULLING):
                live.console.print(escape(line), highlight=False)

        yield sink
