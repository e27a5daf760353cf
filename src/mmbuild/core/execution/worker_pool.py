"""The orchestrator's end of the fork server: start jobs, receive messages."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmbuild.base.errors import MmbuildError
from mmbuild.core.execution.job import WorkerJob, job_line
from mmbuild.core.execution.worker_environment import listed_environment
from mmbuild.core.graph.action import Action

_START = """
import json, os, sys
if sys.argv[3] == "detached" and os.fork():
    os._exit(0)
sys.path[:] = json.loads(sys.argv[1])
from mmbuild.core.execution.forkserver import main
main(int(sys.argv[2]), sys.argv[4:])
"""
"""The fork server's program. It gets this process's module path as an argument, not in its environment, which
is the one that steps see."""


@dataclass(slots=True)
class WorkerPool:
    """A fork server with its pipes. Made by :func:`start_workers`.

    Jobs that end well leave their directory to a later one: making and removing directories costs more than
    a short action.
    """

    staging: Path
    process: subprocess.Popen[bytes]
    events: int
    _selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    _pending: bytes = b""
    _made: int = 0
    _used: dict[str, Path] = field(default_factory=dict)
    _free: list[Path] = field(default_factory=list)

    def start(self, job: WorkerJob, action: Action | None = None) -> Path:  # noqa: ARG002 (the job says it all)
        """Fork a worker for ``job``; returns its directory."""
        directory = self._free.pop() if self._free else self._make_directory()
        self._used[job.name] = directory
        self._ask(b"\t".join((job.name.encode(), json.dumps(str(directory)).encode(), job_line(job))))
        return directory

    def take(self, directory: Path) -> None:
        """Have the next job use ``directory``, which exists and is empty."""
        self._free.append(directory)

    def messages(self, timeout: float | None) -> list[dict[str, Any]]:
        """What the workers said; waits up to ``timeout`` seconds for something.

        Raises:
            MmbuildError: MM316 the fork server died.
        """
        if not self._selector.select(timeout):
            return []
        chunk = os.read(self.events, 1 << 16)
        if not chunk:
            raise MmbuildError(
                f"the process that starts workers ended with status {self.process.wait()}",
                code="MM316",
                hint="if the machine ran out of memory, use fewer `--jobs`; apply again to go on",
            )
        *lines, self._pending = (self._pending + chunk).split(b"\n")
        found = [json.loads(line) for line in lines]
        for message in found:
            self._note_exit(message)
        return found

    def _make_directory(self) -> Path:
        self._made += 1
        directory = self.staging / str(self._made)
        directory.mkdir()
        return directory

    def _note_exit(self, message: dict[str, Any]) -> None:
        """Only when a worker has ended, with all that it started, may another one use its directory."""
        if message["event"] == "exit":
            directory = self._used.pop(message["job"])
            if message["status"] == 0:
                self._free.append(directory)

    def _ask(self, request: bytes) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(request)
            self.process.stdin.flush()
        except BrokenPipeError:
            return  # messages() sees the end of the other pipe and tells why


@contextmanager
def start_workers(
    staging: Path, preload: Iterable[str], hold: int, *, path: Sequence[str] = (), detached: bool = False
) -> Iterator[WorkerPool]:
    """Start a fork server; on leaving, it and all workers are ended.

    Args:
        staging: Existing directory for the jobs.
        preload: Modules to import before forking.
        hold: Descriptor that shall stay open until the last worker has ended (the lock on the store).
        path: Where workers look for modules; empty means as this process does.
        detached: Make it no child of this process: Ray kills the children of a process that it ends, and a killed
            fork server could not end what its workers have started.
    """
    reader, writer = os.pipe()
    modules = json.dumps([entry or os.getcwd() for entry in path or sys.path])
    process = subprocess.Popen(
        [sys.executable, "-c", _START, modules, str(writer), "detached" if detached else "child", *preload],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=None,
        env=listed_environment(),
        pass_fds=(writer, hold),
        start_new_session=True,
    )
    os.close(writer)
    workers = WorkerPool(staging, process, reader)
    workers._selector.register(reader, selectors.EVENT_READ)
    try:
        yield workers
    finally:
        assert process.stdin is not None
        with suppress(BrokenPipeError):
            process.stdin.close()
        process.wait()
        while detached and os.read(reader, 1 << 16):
            continue  # its end, and its workers', closes the pipe
        workers._selector.close()
        os.close(reader)
