"""Requests to a server that may be slow, down or unreliable: deadlines, retries, giving up for the rest of a run."""

from __future__ import annotations

import contextlib
import queue
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from mmbuild.config.remote_errors import Notice, RemoteError, to_stderr

WINDOW_SECONDS = 30.0
"""A server is given up if, over this time, it sent nothing or on average less than :data:`LEAST_RATE`."""

LEAST_RATE = 64 << 10
"""Bytes per second, over all transfers from a server."""


@dataclass(slots=True)
class Flow:
    """Throughput of a server over a time window, for all requests together.

    Attributes:
        window: Length of the window, seconds.
        clock: Monotonic clock, seconds.
    """

    window: float = WINDOW_SECONDS
    clock: Callable[[], float] = time.monotonic
    _arrived: deque[tuple[float, int]] = field(default_factory=deque)
    _total: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, count: int) -> None:
        """Record that ``count`` bytes have arrived."""
        with self._lock:
            self._arrived.append((self.clock(), count))
            self._total += count

    def stuck(self, since: float) -> bool:
        """Return whether too little has arrived within the window, for a transfer started at ``since``."""
        now = self.clock()
        with self._lock:
            while self._arrived and self._arrived[0][0] <= now - self.window:
                self._total -= self._arrived.popleft()[1]
            return now - since >= self.window and self._total < LEAST_RATE * self.window


T = TypeVar("T")
K = TypeVar("K")

ATTEMPTS = 5
"""Attempts before a request counts as failed: a fault rate of 30 % becomes 0.2 %."""

_PAUSE = 0.05
_IN_A_ROW = 3
"""Consecutive failed requests, each with all its attempts, after which the server is given up.
For a server that has never answered, one is enough."""

_QUICK_SECONDS, _SLOW_SECONDS = 1.0, 5.0
_SMALLEST_PIECE, _LARGEST_PIECE = 64 << 10, 8 << 20

_CHECKS = 60
"""Checks of a transfer per window."""


class MalformedError(Exception):
    """The server works, but the file is invalid: too large, a link, a directory or a device."""


ANSWERS = (FileNotFoundError, FileExistsError, MalformedError)
"""Exceptions that are valid answers of a working server."""


class UnreachableError(RemoteError):
    """MM821: a request failed after all attempts, or the server was given up."""


@dataclass(slots=True)
class RetryingClient:
    """Sends all requests of a run to one server.

    Attributes:
        shown: Name of the server in messages.
        timeout: Timeout of a small request, seconds.
        flow: Throughput; large reads report to it.
        warn: Handler for warnings.
        redact: Removes secrets from a message.
        piece: Bytes per request for reads that report no progress: small at first, so that a slow server shows
            progress, and larger while answers come quickly.
        down: Why the server was given up; empty if it was not.
        failed: Number of requests that failed after all attempts.
    """

    shown: str
    timeout: float
    warn: Callable[[Notice], None] = to_stderr
    redact: Callable[[str], str] = str
    pause: float = _PAUSE
    flow: Flow = field(default_factory=Flow)
    piece: int = 256 << 10
    down: str = ""
    failed: int = 0
    _answered: bool = False
    _answered_at: float = 0.0
    _in_a_row: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def do(self, request: Callable[[], T], size: int = 0, *, watched: bool = False) -> T:
        """Send ``request``, with retries, until the server answers.

        Args:
            request: Function without arguments that can be called again.
            size: Bytes that it transfers; they extend the deadline.
            watched: Whether it reports arrived bytes to :attr:`flow`; it then has no deadline while bytes arrive.

        Raises:
            FileNotFoundError, FileExistsError, MalformedError: The server's answer.
            UnreachableError: MM821.
        """
        last: Exception | None = None
        began = self.flow.clock()
        for attempt in range(ATTEMPTS):
            if self.down or (isinstance(last, TimeoutError) and self._is_silent(began)):
                break
            if attempt:
                time.sleep(self.pause * 2**attempt * random.uniform(0.5, 1.5))
            try:
                answer = self._watched(request) if watched else with_timeout(request, self._deadline(size))
            except ANSWERS:
                self._record_answer()
                raise
            except Exception as error:
                last = error
                if self._is_permanent(error):
                    break
            else:
                self._record_answer()
                return answer
        raise self._failure(last, began) from last

    def _deadline(self, size: int) -> float:
        return max(self.timeout, self.flow.window, size / LEAST_RATE) if size else self.timeout

    def read(self, read: Callable[[], bytes], size: int) -> bytes:
        """:meth:`do` for reads that report no progress; adapts :attr:`piece` to the time they take."""
        began = self.flow.clock()
        data = self.do(read, size)
        elapsed = self.flow.clock() - began
        if elapsed < _QUICK_SECONDS:
            self.piece = max(self.piece, min(2 * size, _LARGEST_PIECE))
        elif elapsed > _SLOW_SECONDS:
            self.piece = max(size // 2, _SMALLEST_PIECE)
        return data

    def _watched(self, request: Callable[[], T]) -> T:
        """Return the result of a request that reports progress; give up the server if too little arrives."""
        since, answer = self.flow.clock(), _run_in_thread(request)
        while True:
            with contextlib.suppress(queue.Empty):
                return _result(answer.get(timeout=self.flow.window / _CHECKS))
            if self.down or self.flow.stuck(since):
                reason = f"it sent less than {LEAST_RATE >> 10} KiB/s over {self.flow.window:g} s"
                self.give_up(reason)
                raise TimeoutError(reason)

    def _is_silent(self, began: float) -> bool:
        """Return whether no request was answered for a whole window."""
        return self.flow.clock() - max(began, self._answered_at) >= self.flow.window

    def each(self, keys: Sequence[K], query: Callable[[K], T], threads: int = 16) -> dict[K, T | Exception]:
        """Call ``query`` for every key concurrently; return the answers that arrive within :attr:`timeout` in total.

        An exception from ``query`` is returned as the answer. Keys without an answer are missing from the result.
        """
        waiting: queue.SimpleQueue[K] = queue.SimpleQueue()
        answers: queue.SimpleQueue[tuple[K, T | Exception]] = queue.SimpleQueue()
        for key in keys:
            waiting.put(key)

        def work() -> None:
            while True:
                try:
                    key = waiting.get_nowait()
                except queue.Empty:
                    return
                try:
                    answers.put((key, query(key)))
                except Exception as error:
                    answers.put((key, error))

        for _ in range(min(threads, len(keys))):
            threading.Thread(target=work, daemon=True).start()
        found: dict[K, T | Exception] = {}
        end = time.monotonic() + self.timeout
        while len(found) < len(keys):
            try:
                key, answer = answers.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                self._on_timeout()
                break
            found[key] = answer
        return found

    def give_up(self, reason: str) -> None:
        """Send no more requests in this run, and warn once."""
        with self._lock:
            if self.down:
                return
            self.down = self.redact(reason)
        self.warn(
            Notice(
                f"the shared store `{self.shown}` is not used for the rest of this run: {self.down}",
                "MM821",
                "the build continues without it; set MMBUILD_REMOTE=off to skip it from the start",
            )
        )

    def _record_answer(self) -> None:
        self._answered, self._in_a_row, self._answered_at = True, 0, self.flow.clock()

    def _is_permanent(self, error: Exception) -> bool:
        """Return whether a retry would fail in the same way, or would wait for a server that never answered."""
        if isinstance(error, (NotImplementedError, ImportError, TypeError)) or _denied(error):
            return True
        return isinstance(error, TimeoutError) and not self._answered

    def _failure(self, error: Exception | None, began: float) -> UnreachableError:
        if error is None or self.down:
            return UnreachableError(f"the shared store `{self.shown}` is down: {self.down}", code="MM821")
        reported = self.redact(describe(error))
        with self._lock:
            self.failed += 1
            self._in_a_row += 1
            silent = isinstance(error, TimeoutError) and self._is_silent(began)
            down = silent or not self._answered or self._in_a_row >= _IN_A_ROW
        if down:
            self.give_up(reported)
        return UnreachableError(f"the shared store `{self.shown}` did not answer: {reported}", code="MM821")

    def _on_timeout(self) -> None:
        if not self._answered:
            self.give_up(f"no answer within {self.timeout:g} s")
            return
        self.warn(
            Notice(
                f"the shared store `{self.shown}` did not answer every request within {self.timeout:g} s;"
                " the unanswered ones count as missing",
                "MM821",
                "set store.timeout in the configuration to wait longer",
            )
        )


def with_timeout(function: Callable[[], T], seconds: float) -> T:
    """Return the result of ``function``, waiting up to ``seconds``; a hanging thread is abandoned.

    Raises:
        TimeoutError: It took longer.
    """
    try:
        return _result(_run_in_thread(function).get(timeout=seconds))
    except queue.Empty:
        raise TimeoutError(f"no answer within {seconds:.3g} s") from None


def _run_in_thread(function: Callable[[], T]) -> queue.SimpleQueue[tuple[bool, T | BaseException]]:
    """Run ``function`` in a thread; the returned queue receives (True, result) or (False, exception)."""
    answer: queue.SimpleQueue[tuple[bool, T | BaseException]] = queue.SimpleQueue()

    def work() -> None:
        try:
            answer.put((True, function()))
        except BaseException as error:
            answer.put((False, error))

    threading.Thread(target=work, daemon=True).start()
    return answer


def _result(answer: tuple[bool, T | BaseException]) -> T:
    succeeded, result = answer
    if succeeded:
        return result  # type: ignore[return-value]
    assert isinstance(result, BaseException)
    raise result


def _denied(error: Exception) -> bool:
    """Return whether the server denied access."""
    return isinstance(error, PermissionError) or getattr(error, "status", None) in (401, 403)


def describe(error: BaseException) -> str:
    """Format an exception as one short line."""
    line = str(error).strip().partition("\n")[0][:300]
    return f"{type(error).__name__}: {line}" if line else type(error).__name__
