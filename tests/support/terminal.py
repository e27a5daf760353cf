"""A program on its own terminal (pty(7)): its output, and keys sent to it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

SGR = re.compile(r"\x1b\[[0-9;]*m")
"""Colours, bold, dim: what NO_COLOR forbids."""

CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
"""Any control sequence."""

HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"
"""The cursor."""


class Terminal:
    """Start ``command`` with a terminal as its input, output, error and controlling terminal."""

    def __init__(self, command: Sequence[str], cwd: Path, environment: Mapping[str, str]) -> None:
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            command,
            cwd=cwd,
            env={"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "40", **environment},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 (no threads here)
        )
        os.close(slave)
        self.shown = ""

    def read_until(self, text: str, seconds: float = 60) -> str:
        """Wait until ``text`` was shown; returns everything so far."""
        deadline = time.monotonic() + seconds
        while text not in self.shown:
            assert time.monotonic() < deadline, f"{text!r} was not shown: {self.shown!r}"
            assert self._read(deadline - time.monotonic()), f"ended without {text!r}: {self.shown!r}"
        return self.shown

    def press(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def finish(self, seconds: float = 60) -> int:
        """Read to the end; returns the exit status."""
        deadline = time.monotonic() + seconds
        while self._read(max(0.0, deadline - time.monotonic())):
            assert time.monotonic() < deadline, self.shown
        os.close(self.master)
        return self.process.wait(seconds)

    def _read(self, seconds: float) -> bool:
        """Whether there may be more."""
        if not select.select([self.master], [], [], seconds)[0]:
            return True
        try:
            chunk = os.read(self.master, 65536)
        except OSError:  # EIO: the other end is closed
            return False
        self.shown += chunk.decode(errors="replace")
        return bool(chunk)
