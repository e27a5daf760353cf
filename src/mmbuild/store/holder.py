"""Who holds a lock: the process that wrote itself into the lock's file, else what the kernel lists."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

_TEXT_BYTES = 200
_STATES = {
    "T": "which is stopped (`kill -CONT {pid}` lets it go on)",
    "t": "which a debugger has stopped",
    "Z": "which has ended, though its parent has not noticed",
    "X": "which has ended",
}
_ENDED = "which has ended, though something that it started has not"


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that holds a lock.

    Attributes:
        pid: Its number; 0 where that is not known.
        host: Its machine; empty where that is not known.
        since: Seconds since the epoch when it took the lock; 0 where that is not known.
    """

    pid: int
    host: str = ""
    since: float = 0.0

    @property
    def text(self) -> str:
        """For a message, as the end of ``held by``."""
        if not self.pid:
            return "another process"
        if self.host and self.host != os.uname().nodename:
            return f"process {self.pid} on `{self.host}`{self._for()}"
        state = _state(self.pid)
        return f"process {self.pid}{self._for()}" + (f", {state}" if state else "")

    def _for(self) -> str:
        return f" for {max(0, time.time() - self.since):.0f} s" if self.since else ""


def sign(descriptor: int) -> None:
    """Write this process into the file of a lock that it has just taken."""
    try:
        os.pwrite(
            descriptor, f"{os.getpid()} {time.time():.0f} {os.uname().nodename}\n".ljust(80).encode(), 0
        )
    except OSError:  # a full disk: the lock holds all the same
        return


def holder_of(descriptor: int) -> Holder:
    """Who holds the lock of the open file ``descriptor``."""
    found = os.fstat(descriptor)
    listed = _listed(found.st_ino)
    signed = _signed(descriptor)
    if signed is not None and (not listed or signed.pid in listed or signed.host != os.uname().nodename):
        return signed
    return Holder(listed[0]) if listed else signed or Holder(0)


def _signed(descriptor: int) -> Holder | None:
    try:
        pid, since, host = os.pread(descriptor, _TEXT_BYTES, 0).decode("ascii").split()
        number, seconds = int(pid), float(since)
    except (OSError, ValueError):
        return None
    known = 0 < number < 1 << 31 and 0 < seconds < 1 << 40
    return Holder(number, host, seconds) if known else None


def _listed(inode: int) -> list[int]:
    """Processes of this machine that hold a ``flock`` on a file with this inode."""
    try:
        with open("/proc/locks", encoding="ascii") as stream:
            rows = [line.split() for line in stream]
    except (OSError, ValueError):
        return []
    return [
        int(row[4])
        for row in rows
        if len(row) > 5
        and row[1] == "FLOCK"
        and row[5].endswith(f":{inode}")
        and row[4].isdigit()
        and int(row[4])
    ]


def _state(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/stat", "rb") as stream:
            letter = stream.read().rpartition(b")")[2].split()[0].decode("ascii")
    except FileNotFoundError:
        return _ENDED if os.path.isdir("/proc/self") else ""
    except (OSError, IndexError, ValueError):
        return ""
    return _STATES.get(letter, "").format(pid=pid)
