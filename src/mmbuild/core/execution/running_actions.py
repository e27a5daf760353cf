"""State of a running apply for its display, derived from events, and the lines that show it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from mmbuild.base.formatting import elapsed_text, estimate_text
from mmbuild.base.pace import Pace, observe, seconds_left
from mmbuild.base.progress import from_data
from mmbuild.base.progress_text import columns, end_that_fits, progress_text
from mmbuild.base.terminal_text import one_line
from mmbuild.core.execution.events import Event, EventKind
from mmbuild.core.execution.time_left import TimeLeft

_BEGIN = frozenset({EventKind.STARTED, EventKind.PULLING})
_END = frozenset({EventKind.FINISHED, EventKind.REUSED, EventKind.FAILED, EventKind.PULLED})
_COUNTED = _END - {EventKind.PULLED}
_AMOUNT_COLUMNS = 46
"""What a line needs for the amount and the time left, which matter more than the beginning of the label."""


@dataclass(frozen=True, slots=True)
class RunningAction:
    """An action that runs.

    Attributes:
        label: Its label.
        started: When it started, seconds since the epoch.
        message: What it does, as it last reported.
        pace: How much of it is done and how fast; None if it has not reported an amount.
    """

    label: str
    started: float
    message: str = ""
    pace: Pace | None = None


@dataclass(frozen=True, slots=True)
class ApplyProgress:
    """An apply that runs.

    Attributes:
        total: Number of actions that run.
        started: When the apply started, seconds since the epoch.
        ended: Number of actions that have ended.
        done: Labels of actions that have ended.
        running: Running actions by label, in the order in which they started.
    """

    total: int
    started: float
    ended: int = 0
    done: frozenset[str] = frozenset()
    running: Mapping[str, RunningAction] = field(default_factory=dict)


def after(state: ApplyProgress, event: Event) -> ApplyProgress:
    """``state`` after ``event``."""
    label, running = event.label, state.running
    if event.kind is EventKind.PLAN:  # actions that could not be pulled run
        return replace(state, total=event.data["run"] + event.data["unknown"])
    if event.kind in _BEGIN:
        return replace(state, running={**running, label: RunningAction(label, event.at)})
    if event.kind is EventKind.PROGRESS and label in running:
        return replace(state, running={**running, label: _advanced(running[label], event)})
    if event.kind in _END:
        left = {name: action for name, action in running.items() if name != label}
        counted = event.kind in _COUNTED
        return replace(state, running=left, ended=state.ended + counted, done=state.done | {label})
    return state


def _advanced(action: RunningAction, event: Event) -> RunningAction:
    amount = from_data(event.data)
    pace = observe(action.pace, amount, event.at) if amount is not None else None
    return replace(action, message=one_line(event.data["message"]), pace=pace)


def lines(
    state: ApplyProgress, estimate: TimeLeft | None, now: float, width: int, height: int
) -> Iterator[str]:
    """The live display: a line for each running action, and one for all.

    Args:
        state: The apply.
        estimate: What the plan's actions were estimated to take, if that is known.
        now: Seconds since the epoch.
        width: Columns of the terminal.
        height: Its lines; if there are more actions than fit, the last line but one gives their number.
    """
    shown = list(state.running.values())
    most = max(1, height - 3)
    hidden = len(shown) - most if len(shown) > most else 0
    shown = shown[: len(shown) - hidden]
    longest = max((columns(one_line(action.label)) for action in shown), default=0)
    label_width = min(longest, max(width // 4, width - _AMOUNT_COLUMNS))
    times = [elapsed_text(now - action.started) for action in shown]
    time_width = max(map(len, times), default=0)
    for action, elapsed in zip(shown, times, strict=True):
        yield _action_line(action, f"{elapsed:>{time_width}}", now, width, label_width)
    if hidden:
        yield f"    and {hidden} more"
    yield overall_line(state, estimate, now, width)


def _action_line(action: RunningAction, elapsed: str, now: float, width: int, label_width: int) -> str:
    """``▸ label  12 s  message 3.1/13.5 GB, 210.0 MB/s, 49 s left`` in ``width`` columns."""
    label = end_that_fits(one_line(action.label), label_width)
    padding = " " * (label_width - columns(label))
    head = f"  \u25b8 {label}{padding}  {elapsed}"
    text = progress_text(action.message, action.pace, now, width - columns(head) - 2)
    return f"{head}  {text}".rstrip()


def overall_line(state: ApplyProgress, estimate: TimeLeft | None, now: float, width: int) -> str:
    """``3/9 actions, 1 min 12 s so far, about 4 min left (estimate)`` in ``width`` columns."""
    left = None if estimate is None else estimate.seconds(state.done, _of_running(state, now))
    parts = [f"{state.ended}/{state.total} actions", f"{elapsed_text(now - state.started)} so far"]
    if left is not None and left >= 1:
        parts.append(f"about {estimate_text(left)} left (estimate)")
    while len(parts) > 1 and columns(", ".join(parts)) + 2 > width:
        parts.pop(1)
    return f"  {', '.join(parts)}"


def _of_running(state: ApplyProgress, now: float) -> dict[str, tuple[float, float | None]]:
    """Seconds that each running action has taken and, if its progress tells, has left."""
    return {
        action.label: (now - action.started, None if action.pace is None else seconds_left(action.pace, now))
        for action in state.running.values()
    }


def still_line(action: RunningAction, now: float) -> str:
    """The line of a long action in a log: ``label: running for 60 s, message 12/32 layers, 49 s left``."""
    text = progress_text(action.message, action.pace, now, 200)
    return f"{action.label}: running for {elapsed_text(now - action.started)}{', ' if text else ''}{text}"
