"""The peak of a worker's anonymous memory, sampled by the process that forked it.

From outside, because a thread inside a worker costs a short action more than its own work, and sees nothing
while the step holds the interpreter's lock.
"""

from __future__ import annotations

import mmap
import os
import struct
from dataclasses import dataclass

SAMPLE_SECONDS = 0.02
_COUNT = struct.Struct("=Q")


@dataclass(frozen=True, slots=True)
class MemorySampler:
    """A number of bytes that a process shares with those it forks. Made by :func:`new_peak`."""

    memory: mmap.mmap

    @property
    def value(self) -> int:
        found: int = _COUNT.unpack_from(self.memory)[0]
        return found

    def sample(self, process: int | str = "self") -> int:
        """Look at ``process`` (an id); returns the highest so far."""
        now = anonymous(process)
        highest = self.value
        if now > highest:
            _COUNT.pack_into(self.memory, 0, now)
        return max(now, highest)

    def close(self) -> None:
        self.memory.close()


def new_peak() -> MemorySampler:
    """Zero, in a page of memory that survives a fork as shared."""
    return MemorySampler(mmap.mmap(-1, mmap.PAGESIZE))


def anonymous(process: int | str = "self") -> int:
    """Resident anonymous bytes (``RssAnon`` of proc(5)); 0 where the process has ended."""
    try:
        descriptor = os.open(f"/proc/{process}/status", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0
    try:
        _, found, rest = os.read(descriptor, 8192).partition(b"RssAnon:")
    except ProcessLookupError:
        return 0
    finally:
        os.close(descriptor)
    return int(rest.split(None, 1)[0]) * 1024 if found else 0
