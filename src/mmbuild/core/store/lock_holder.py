"""Who holds a lock, as the kernel lists it."""

from __future__ import annotations

import os

_STATES = {
    "T": "which is stopped (`kill -CONT {pid}` lets it go on)",
    "t": "which a debugger has stopped",
    "Z": "which has ended, though its parent has not noticed",
    "X": "which has ended",
}
_ENDED = "which has ended, though something that it started has not"
_NOBODY = "another process"
_FIELDS = 6


def holder_text(path: os.PathLike[str] | str) -> str:
    """The process that holds the lock at ``path``, with its state where that is unusual.

    Of a process of another machine (a store on NFS) or of another container the number is not known.
    """
    try:
        inode = os.lstat(path).st_ino
    except OSError:
        return _NOBODY
    pids = _listed(inode)
    if not pids:
        return _NOBODY
    state = _state(pids[0])
    return f"process {pids[0]}" + (f", {state}" if state else "")


def _listed(inode: int) -> list[int]:
    """Processes of this machine that hold a ``flock`` on a file with this inode."""
    try:
        with open("/proc/locks", encoding="ascii") as stream:
            rows = [line.split() for line in stream]
    except (OSError, ValueError):
        return []
    # 1: FLOCK ADVISORY WRITE 4711 fe:00:123 0 EOF; who waits has an arrow before the kind, and 0 is no process.
    held = [row for row in rows if len(row) >= _FIELDS and row[1] == "FLOCK" and row[5].endswith(f":{inode}")]
    return [int(row[4]) for row in held if row[4].isdigit() and row[4] != "0"]


def _state(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/stat", "rb") as stream:
            letter = stream.read().rpartition(b")")[2].split()[0].decode("ascii")
    except FileNotFoundError:
        return _ENDED
    except (OSError, IndexError, ValueError):
        return ""
    return _STATES.get(letter, "").format(pid=pid)
