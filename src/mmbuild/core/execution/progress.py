"""Showing an apply to a person: a live table on a terminal, plain lines otherwise, on standard error."""

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
    """A sink that shows events; ``live`` False, or no terminal, means plain lines."""
    if live and sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        with _live(plan) as sink:
            yield lenient(sink)
    else:
        yield lenient(PlainLines(plan))


def lenient(sink: Sink) -> Sink:
    """``sink``, which may fail: standard error that is closed or full is no reason to stop a build."""

    def show(event: Event) -> None:
        with suppress(OSError, ValueError, AttributeError):
            sink(event)

    return show


class PlainLines:
    """One line when an action starts and one when it ends: fit for logs of CI."""

    def __init__(self, plan: Plan) -> None:
        self.total = sum(p.verdict in (Verdict.RUN, Verdict.UNKNOWN) for p in plan.actions)
        self.ended = 0

    def __call__(self, event: Event) -> None:
        if event.kind is EventKind.PLAN:  # what could not be pulled runs
            self.total = event.data["run"] + event.data["unknown"]
        if event.kind in (EventKind.FINISHED, EventKind.REUSED, EventKind.FAILED):
            self.ended += 1
        line = _shown(event)
        if line:
            print(f"[{self.ended}/{self.total}] {line}", file=sys.stderr, flush=True)


def _shown(event: Event) -> str:
    """:func:`event_line`, the first line of it: what failed is reported in full at the end."""
    return one_line(event_line(event).partition("\n")[0])


def event_line(event: Event) -> str:
    """An event as one line; empty for those that only a live display shows."""
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
        return f"FAILED {event.label}: {data['message']}"
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
    """Time, memory and size of a finished action."""
    return f"{data['seconds']:.1f} s, peak {data['memory'] / 1e6:.0f} MB, output {data['size'] / 1e6:.1f} MB"


@contextmanager
def _live(plan: Plan) -> Iterator[Sink]:
    import time

    from rich.console import Console
    from rich.live import Live
    from rich.markup import escape
    from rich.table import Table

    # rich keeps dim and bold under NO_COLOR; a person who sets it wants plain text.
    plain_text = bool(os.environ.get("NO_COLOR"))
    console = Console(file=raw(sys.stderr), color_system=None if plain_text else "auto")
    started: dict[str, float] = {}
    messages: dict[str, str] = {}
    plain = PlainLines(plan)

    def table() -> Table:
        """The running actions; what has ended scrolls above."""
        shown = Table.grid(padding=(0, 2))
        for label, begin in started.items():
            shown.add_row(
                "  ▸",
                escape(one_line(label)),
                f"{time.time() - begin:.0f} s",
                escape(messages.get(label, "")),
            )
        shown.add_row(f"[dim]{plain.ended}/{plain.total}[/dim]", "", "", "")
        return shown

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
            line = _shown(event)
            if line and event.kind not in (EventKind.STARTED, EventKind.PULLING):
                live.console.print(escape(line), highlight=False)

        yield sink
