"""mmbuild on its own terminal (pty(7)): its output, and keys sent to it."""

from __future__ import annotations

import os
import pty
import re
import select
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from support.projects.forked import start_on_terminal

SGR = re.compile(r"\x1b\[[0-9;]*m")
"""Colours, bold, dim: what NO_COLOR forbids."""

CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
"""Any control sequence."""

HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"
"""The cursor."""


class Terminal:
    """`mmbuild` with ``arguments``, with a terminal as its input, output, error and controlling terminal."""

    def __init__(self, arguments: Sequence[str], cwd: Path, environment: Mapping[str, str]) -> None:
        self.master, self._slave = pty.openpty()  # ours of the slave stays open until mmbuild has one
        variables = {"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "40", **environment}
        self.process = start_on_terminal(list(arguments), cwd, variables, os.ttyname(self._slave))
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
        self.process.join(seconds)
        assert self.process.exitcode is not None, self.shown
        return self.process.exitcode

    def _read(self, seconds: float) -> bool:
        """Whether there may be more."""
        if not select.select([self.master], [], [], seconds)[0]:
            return True
        try:
            chunk = os.read(self.master, 65536)
        except OSError:  # EIO: the other end is closed
            return False
        if not self.shown:
            os.close(self._slave)
        self.shown += chunk.decode(errors="replace")
        return bool(chunk)
