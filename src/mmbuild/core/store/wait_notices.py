"""What a process says while it waits for another: after two seconds, and every half minute."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

FIRST_SECONDS = 2.0
AGAIN_SECONDS = 30.0


@dataclass(slots=True)
class Patience:
    """When to say something about one wait.

    Attributes:
        begin: When it began, by the monotonic clock.
    """

    begin: float = field(default_factory=time.monotonic)
    _due: float = FIRST_SECONDS

    @property
    def seconds(self) -> float:
        """How long this goes on."""
        return time.monotonic() - self.begin

    def due(self) -> bool:
        """Whether it is time to say something; true once for each time."""
        if self.seconds < self._due:
            return False
        self._due = max(self._due, self.seconds) + AGAIN_SECONDS
        return True


def to_stderr(text: str) -> None:
    """A line on standard error, which may be closed or full."""
    with suppress(OSError, ValueError, AttributeError):
        print(text, file=sys.stderr, flush=True)


_reporters: list[Callable[[str], None]] = [to_stderr]


def report_to(reporter: Callable[[str], None]) -> None:
    """From now on have ``reporter`` called with each line: in a worker, whose standard error is a log."""
    _reporters[:] = [reporter]


def report(text: str) -> None:
    """Say ``text`` where a person sees it."""
    for reporter in _reporters:
        reporter(text)


def wait_until(done: Callable[[], bool], what: Callable[[float], str], limit: float) -> bool:
    """Call ``done`` until it is true; False where ``limit`` seconds were not enough.

    Args:
        done: What is waited for; called about every 50 ms.
        what: The line to report after so many seconds of waiting.
        limit: Seconds.
    """
    patience, pause = Patience(), 0.001
    while not done():
        if patience.seconds >= limit:
            return False
        if patience.due():
            report(what(patience.seconds))
        time.sleep(pause)
        pause = min(0.05, pause * 2)
    return True
