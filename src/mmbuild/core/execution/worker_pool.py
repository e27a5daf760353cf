"""The orchestrator's end of the fork server: start jobs, receive messages."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
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
"""The fork server's program. It gets this process's module path as an argument, because steps see its environment."""


@dataclass(slots=True)
class WorkerPool:
    """A fork server with its pipes. Created by :func:`start_workers`.

    The directory of a successful job is reused by a later job: creating and removing directories costs more than
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

    def start(self, job: WorkerJob, action: Action | None = None) -> Path:  # noqa: ARG002 (part of the interface)
        """Fork a worker for ``job``, once its modules have been imported; return its directory."""
        directory = self._free.pop() if self._free else self._make_directory()
        self._used[job.name] = directory
        texts = (json.dumps(value).encode() for value in (job.preload, str(directory)))
        self._send(b"\t".join((job.name.encode(), *texts, job_line(job))))
        return directory

    def take(self, directory: Path) -> None:
        """Let the next job use ``directory``, which exists and is empty."""
        self._free.append(directory)

    def messages(self, timeout: float | None) -> list[dict[str, Any]]:
        """Return messages from workers, after waiting up to ``timeout`` seconds (None: indefinitely) for one.

        Raises:
            MmbuildError: MM316, the fork server died.
        """
        if not self._selector.select(timeout):
            return []
        chunk = os.read(self.events, 1 << 16)
        if not chunk:
            raise MmbuildError(
                f"the process that starts workers exited with status {self.process.wait()}",
                code="MM316",
                hint="if the machine ran out of memory, use fewer `--jobs`; apply again to continue",
            )
        *lines, self._pending = (self._pending + chunk).split(b"\n")
        messages = [json.loads(line) for line in lines]
        for message in messages:
            self._reclaim_directory(message)
        return messages

    def _make_directory(self) -> Path:
        self._made += 1
        directory = self.staging / str(self._made)
        directory.mkdir()
        return directory

    def _reclaim_directory(self, message: dict[str, Any]) -> None:
        """Free a worker's directory once it has exited: until then, its processes may still use it."""
        if message["event"] == "exit":
            directory = self._used.pop(message["job"])
            if message["status"] == 0:
                self._free.append(directory)

    def _send(self, request: bytes) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(request)
            self.process.stdin.flush()
        except BrokenPipeError:
            return  # messages() sees the end of the other pipe and reports the cause


@dataclass(frozen=True, slots=True)
class ServerProcess:
    """Arguments of a fork server's process.

    Attributes:
        modules: Module search path.
        events: Descriptor for messages, inherited.
        hold: Descriptor to keep open until the last worker has ended, inherited.
        preload: Modules to import before forking.
        detached: Whether it is not a child of this process.
    """

    modules: Sequence[str]
    events: int
    hold: int
    preload: Sequence[str]
    detached: bool


def launch(server: ServerProcess) -> subprocess.Popen[bytes]:
    """Start Python as a fork server, in its own session and with a listed environment."""
    kind = "detached" if server.detached else "child"
    modules = json.dumps(list(server.modules))
    return subprocess.Popen(
        [sys.executable, "-c", _START, modules, str(server.events), kind, *server.preload],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=None,
        env=listed_environment(),
        pass_fds=(server.events, server.hold),
        start_new_session=True,
    )


@contextmanager
def start_workers(
    staging: Path,
    preload: Iterable[str],
    hold: int,
    *,
    path: Sequence[str] = (),
    detached: bool = False,
    launch: Callable[[ServerProcess], subprocess.Popen[bytes]] = launch,
) -> Iterator[WorkerPool]:
    """Start a fork server; on exit, stop it and all workers.

    Args:
        staging: Existing directory for the jobs.
        preload: Modules to import before forking.
        hold: Descriptor to keep open until the last worker has ended (the lock on the store).
        path: Module search path of the workers; empty means this process's.
        detached: Do not make it a child of this process: Ray kills the children of a process that it ends, and a
            killed fork server could not kill what its workers started.
        launch: Starts the process.
    """
    reader, writer = os.pipe()
    modules = [entry or os.getcwd() for entry in path or sys.path]
    process = launch(ServerProcess(modules, writer, hold, tuple(preload), detached))
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
            continue  # until the server and its workers have ended and closed the pipe
        workers._selector.close()
        os.close(reader)
