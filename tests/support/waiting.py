"""Waiting for what other processes do, and whether a process is gone."""

import time
from pathlib import Path


def wait_for(condition, seconds=240):
    """Return what ``condition`` returns once it is true; a busy machine may need minutes."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def gone(process):
    """Whether the process has ended, even if its status has not been collected."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True
