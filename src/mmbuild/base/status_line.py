"""A line on a terminal's standard error that shows what a command is waiting for; it is removed at the end."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar

from mmbuild.base.formatting import elapsed_text
from mmbuild.base.pace import Pace, observe
from mmbuild.base.progress import Amount, Progress, as_amount, silent
from mmbuild.base.progress_text import columns, end_that_fits, progress_text, words_that_fit
from mmbuild.base.repeating import repeating
from mmbuild.base.terminal_text import one_line

_REDRAW_SECONDS = 0.5
"""What takes less time shows nothing."""

_ERASE = "\r\x1b[K"

_hidden: ContextVar[bool] = ContextVar("hidden", default=False)


@contextmanager
def hidden() -> Iterator[None]:
    """Let :func:`working` show nothing while the block runs."""
    token = _hidden.set(True)
    try:
        yield
    finally:
        _hidden.reset(token)


@contextmanager
def working(task: str, *, at_once: bool = False) -> Iterator[Progress]:
    """Show ``task`` with the time that it has taken while the block runs, if standard error is a terminal.

    Yields a function that adds what is being done and how much of it is done. What the block prints to standard error
    or standard output replaces the line, which is then drawn again below it.

    Args:
        task: What the command does.
        at_once: Draw every report when it is made, not twice a second.
    """
    descriptor = None if _hidden.get() else _terminal()
    if descriptor is None:
        yield silent
        return
    line = StatusLine(
        task, lambda text: _write(descriptor, text), lambda: _width(descriptor), at_once=at_once
    )
    try:
        with line.drawn(), _cleared_before_output(line.clear):
            yield line.report
    finally:
        os.close(descriptor)


class StatusLine:
    """The line of one task.

    Args:
        task: What the command does.
        write: Writes to the terminal.
        width: Returns its number of columns.
        clock: Seconds.
        at_once: Draw every report when it is made.
    """

    def __init__(
        self,
        task: str,
        write: Callable[[str], None],
        width: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
        *,
        at_once: bool = False,
    ) -> None:
        self._task, self._write, self._width, self._clock = one_line(task), write, width, clock
        self._at_once, self._process = at_once, os.getpid()
        self._started = clock()
        self._message = ""
        self._pace: Pace | None = None
        self._shown = False
        self._lock = threading.RLock()

    def report(self, message: str, amount: Amount | float | None) -> None:
        """See :data:`mmbuild.base.progress.Progress`; drawn with the next redraw, or at once."""
        known = as_amount(amount)
        with self._lock:
            self._message = one_line(message)
            self._pace = None if known is None else observe(self._pace, known, self._clock())
            if self._at_once:
                self.draw()

    def text(self) -> str:
        """The line, which is shorter than the terminal is wide, so that the cursor stays in it."""
        now, width = self._clock(), self._width() - 1
        elapsed = f", {elapsed_text(now - self._started)}"
        room = max(0, width - len(elapsed))
        task = words_that_fit(self._task, room) or end_that_fits(self._task, room)
        if not task:  # not even a character of it fits
            return elapsed[2 : 2 + max(0, width)]
        line = task + elapsed
        more = progress_text(self._message, self._pace, now, width - columns(line) - 2)
        return f"{line}: {more}" if more else line

    def draw(self) -> None:
        """Draw the line."""
        with self._lock:
            self._write(f"{_ERASE}{self.text()}")
            self._shown = True

    def clear(self) -> None:
        """Remove the line until it is drawn again."""
        if os.getpid() != self._process:  # a forked child, in which nobody may release the lock
            return
        with self._lock:
            if self._shown:
                self._write(_ERASE)
                self._shown = False

    @contextmanager
    def drawn(self) -> Iterator[None]:
        """Draw the line twice a second in another thread, first after half a second; remove it at the end."""
        try:
            with repeating(self.draw, _REDRAW_SECONDS):
                yield
        finally:
            self.clear()


class _Clearing:
    """A text stream that removes the status line before it writes."""

    def __init__(self, stream: object, clear: Callable[[], None]) -> None:
        self._stream, self._clear = stream, clear

    def write(self, text: str) -> int:
        self._clear()
        return self._stream.write(text)  # type: ignore[attr-defined, no-any-return]

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


@contextmanager
def _cleared_before_output(clear: Callable[[], None]) -> Iterator[None]:
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (_Clearing(stream, clear) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def _terminal() -> int | None:
    """A new descriptor of standard error, which stays open while that is silenced; None if it is not a terminal."""
    try:
        if sys.stderr is None or not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
            return None
        return os.dup(sys.stderr.fileno())
    except (OSError, ValueError):
        return None


def _write(descriptor: int, text: str) -> None:
    with suppress(OSError):
        os.write(descriptor, text.encode(errors="replace"))


def _width(descriptor: int) -> int:
    try:
        return os.get_terminal_size(descriptor).columns or 80
    except OSError:
        return 80
