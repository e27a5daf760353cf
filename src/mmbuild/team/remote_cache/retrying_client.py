"""Requests to a place that may be slow, down or unreliable: deadlines, retries, giving up for the rest of a run."""

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

from mmbuild.config.remote_warnings import Notice, RemoteError, WarningHandler, to_stderr

WINDOW_SECONDS = 30.0
"""A place is given up that sent nothing for so long, or on average less than :data:`LEAST_RATE`."""

LEAST_RATE = 64 << 10
"""Bytes a second, of all transfers from a place together."""


@dataclass(slots=True)
class Flow:
    """What has arrived from one place lately, over all of its requests.

    Attributes:
        window: Seconds that are looked back.
        clock: Seconds, monotonic.
    """

    window: float = WINDOW_SECONDS
    clock: Callable[[], float] = time.monotonic
    _arrived: deque[tuple[float, int]] = field(default_factory=deque)
    _total: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, count: int) -> None:
        """Note that ``count`` bytes have arrived."""
        with self._lock:
            self._arrived.append((self.clock(), count))
            self._total += count

    def stuck(self, since: float) -> bool:
        """Whether too little has arrived within the window, for a transfer that runs since ``since``."""
        now = self.clock()
        with self._lock:
            while self._arrived and self._arrived[0][0] <= now - self.window:
                self._total -= self._arrived.popleft()[1]
            return now - since >= self.window and self._total < LEAST_RATE * self.window


T = TypeVar("T")
K = TypeVar("K")

ATTEMPTS = 5
"""How often a request is made before it counts as failed: of 30 % faults 0.2 % are left."""

_PAUSE = 0.05
_IN_A_ROW = 3
"""Failed requests, with all their attempts and none between them that worked, after which nothing more is asked.
Of a place that has not answered at all yet, one is enough."""

_QUICK_SECONDS, _SLOW_SECONDS = 1.0, 5.0
_SMALLEST_PIECE, _LARGEST_PIECE = 64 << 10, 8 << 20

_LOOKS = 60
"""How often within its window a transfer is looked at."""


class MalformedError(Exception):
    """A place that works has something else than a file of its kind: too large, a link, a directory, a device."""


ANSWERS = (FileNotFoundError, FileExistsError, MalformedError)
"""Exceptions that are answers of a place that works."""


class UnreachableError(RemoteError):
    """MM821: a request failed for good, or nothing is asked any more."""


@dataclass(slots=True)
class RetryingClient:
    """All requests of one run to one place.

    Attributes:
        shown: What the place is called.
        timeout: Seconds for a request that carries little.
        flow: What has arrived from there; reads that carry much report to it.
        tell: Where warnings go.
        redact: Takes out of a message what must not be told.
        piece: Bytes to ask for at once where reads report nothing while they run: little at first, so that a slow
            place is seen to progress, and more while answers come quickly.
        down: Why nothing is asked any more; empty while things are well.
        failed: Requests that failed for good.
    """

    shown: str
    timeout: float
    warn: WarningHandler = to_stderr
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
        """Make ``request`` until it gives an answer.

        Args:
            request: A function without arguments that may be called again.
            size: Bytes that it carries; they lengthen the deadline.
            watched: Whether it reports to :attr:`flow` what has arrived: then it has no deadline while bytes come.

        Raises:
            FileNotFoundError, FileExistsError, MalformedError: The place says so.
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
                found = self._watched(request) if watched else with_timeout(request, self._deadline(size))
            except ANSWERS:
                self._worked()
                raise
            except Exception as error:
                last = error
                if self._is_permanent(error):
                    break
            else:
                self._worked()
                return found
        raise self._gave_up(last, began) from last

    def _deadline(self, size: int) -> float:
        return max(self.timeout, self.flow.window, size / LEAST_RATE) if size else self.timeout

    def read(self, read: Callable[[], bytes], size: int) -> bytes:
        """:meth:`do` for a place whose reads report nothing while they run: :attr:`piece` follows what they take."""
        began = self.flow.clock()
        data = self.do(read, size)
        taken = self.flow.clock() - began
        if taken < _QUICK_SECONDS:
            self.piece = max(self.piece, min(2 * size, _LARGEST_PIECE))
        elif taken > _SLOW_SECONDS:
            self.piece = max(size // 2, _SMALLEST_PIECE)
        return data

    def _watched(self, request: Callable[[], T]) -> T:
        """The result of a request that reports what arrives; given up with the place when too little does."""
        since, answer = self.flow.clock(), _started(request)
        while True:
            with contextlib.suppress(queue.Empty):
                return _result(answer.get(timeout=self.flow.window / _LOOKS))
            if self.down or self.flow.stuck(since):
                least = f"less than {LEAST_RATE >> 10} KiB/s came over {self.flow.window:g} s"
                self.give_up(least)
                raise TimeoutError(least)

    def _is_silent(self, began: float) -> bool:
        """Whether no request was answered for a window."""
        return self.flow.clock() - max(began, self._answered_at) >= self.flow.window

    def each(self, keys: Sequence[K], ask: Callable[[K], T], threads: int = 16) -> dict[K, T | Exception]:
        """``ask`` of every key side by side, within :attr:`timeout` altogether; what came in time.

        What ``ask`` raises stands in place of its answer. Keys that got none are absent.
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
                    answers.put((key, ask(key)))
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

    def give_up(self, why: str) -> None:
        """Ask nothing more in this run, and say so once."""
        with self._lock:
            if self.down:
                return
            self.down = self.redact(why)
        self.warn(
            Notice(
                f"the shared store `{self.shown}` is left alone for the rest of this run: {self.down}",
                "MM821",
                "the build goes on without it; MMBUILD_REMOTE=off asks nothing from the start",
            )
        )

    def _worked(self) -> None:
        self._answered, self._in_a_row, self._answered_at = True, 0, self.flow.clock()

    def _is_permanent(self, error: Exception) -> bool:
        """Whether asking again would say the same, or cost the same long time again."""
        if isinstance(error, (NotImplementedError, ImportError, TypeError)) or _denied(error):
            return True
        return isinstance(error, TimeoutError) and not self._answered

    def _gave_up(self, error: Exception | None, began: float) -> UnreachableError:
        if error is None or self.down:
            return UnreachableError(f"the shared store `{self.shown}` is down: {self.down}", code="MM821")
        reported = self.redact(describe(error))
        with self._lock:
            self.failed += 1
            self._in_a_row += 1
            silent = isinstance(error, TimeoutError) and self._is_silent(began)
            hopeless = silent or not self._answered or self._in_a_row >= _IN_A_ROW
        if hopeless:
            self.give_up(reported)
        return UnreachableError(f"the shared store `{self.shown}` did not answer: {reported}", code="MM821")

    def _on_timeout(self) -> None:
        if not self._answered:
            self.give_up(f"no answer within {self.timeout:g} s")
            return
        self.warn(
            Notice(
                f"the shared store `{self.shown}` did not answer everything within {self.timeout:g} s;"
                " the rest counts as not there",
                "MM821",
                "store.timeout in the configuration says how long is waited",
            )
        )


def with_timeout(function: Callable[[], T], seconds: float) -> T:
    """The result of ``function``, waited for so long; the thread of one that hangs is left to itself.

    Raises:
        TimeoutError: It took longer.
    """
    try:
        return _result(_started(function).get(timeout=seconds))
    except queue.Empty:
        raise TimeoutError(f"no answer within {seconds:.3g} s") from None


def _started(function: Callable[[], T]) -> queue.SimpleQueue[tuple[bool, T | BaseException]]:
    """Gets the result of ``function``, and whether it is one; run by its own thread."""
    done: queue.SimpleQueue[tuple[bool, T | BaseException]] = queue.SimpleQueue()

    def work() -> None:
        try:
            done.put((True, function()))
        except BaseException as error:
            done.put((False, error))

    threading.Thread(target=work, daemon=True).start()
    return done


def _result(answer: tuple[bool, T | BaseException]) -> T:
    worked, result = answer
    if worked:
        return result  # type: ignore[return-value]
    assert isinstance(result, BaseException)
    raise result


def _denied(error: Exception) -> bool:
    """Whether the place refuses who asks."""
    return isinstance(error, PermissionError) or getattr(error, "status", None) in (401, 403)


def describe(error: BaseException) -> str:
    """An exception in one short line."""
    line = str(error).strip().partition("\n")[0][:300]
    return f"{type(error).__name__}: {line}" if line else type(error).__name__
