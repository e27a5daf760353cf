"""Whether bytes still come from a place: a window that slides over what has arrived.

A transfer that progresses has no limit; a place that sends a byte a second is given up.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

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
