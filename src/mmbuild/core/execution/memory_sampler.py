"""Peak anonymous memory of a worker, sampled by the process that forked it.

A sampling thread inside the worker would cost more than the work of a short action, and would see nothing
while the step holds the interpreter lock.
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
    """Peak in bytes, in memory shared between a process and its forks. Created by :func:`new_peak`."""

    memory: mmap.mmap

    @property
    def value(self) -> int:
        peak: int = _COUNT.unpack_from(self.memory)[0]
        return peak

    def sample(self, process: int | str = "self") -> int:
        """Sample the process with this id and return the highest value so far, bytes."""
        now = anonymous(process)
        highest = self.value
        if now > highest:
            _COUNT.pack_into(self.memory, 0, now)
        return max(now, highest)

    def close(self) -> None:
        self.memory.close()


def new_peak() -> MemorySampler:
    """Return a sampler at zero, in a page that stays shared after a fork."""
    return MemorySampler(mmap.mmap(-1, mmap.PAGESIZE))


def anonymous(process: int | str = "self") -> int:
    """Return resident anonymous bytes (``RssAnon`` in proc(5)); 0 if the process has ended."""
    try:
        descriptor = os.open(f"/proc/{process}/status", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0
    try:
        _, field, rest = os.read(descriptor, 8192).partition(b"RssAnon:")
    except ProcessLookupError:
        return 0
    finally:
        os.close(descriptor)
    return int(rest.split(None, 1)[0]) * 1024 if field else 0
